"""Model files are pinned by content, and what is missing is named with its place."""

from __future__ import annotations

import os

import pytest

from cosmos_core.errors import CheckpointMissing
from cosmos_core.hashing import sha256_file
from tasks.config import AdapterConfig, parse_config
from tasks.versions import Variant, resolve_adapter, resolve_model

TINY = Variant(model="tiny", resolution="112", fps=10)


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "checkpoints" / "crossroads" / "tiny"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "text_encoder").mkdir()
    (folder / "model-112p-10fps.safetensors").write_bytes(b"base")
    (folder / "tokenizer" / "tokenizer.safetensors").write_bytes(b"vae")
    (folder / "text_encoder" / "config.json").write_bytes(b"{}")
    return tmp_path / "checkpoints"


def config(root):
    return parse_config({"checkpoints": {"root": str(root)}}, origin="test")


def test_versions_are_the_hashes_of_the_files(checkpoints, tmp_path):
    version = resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes")
    base = checkpoints / "crossroads" / "tiny" / "model-112p-10fps.safetensors"
    assert version.base.sha256 == sha256_file(base)
    assert version.base.num_bytes == 4
    assert resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes") == version


def test_a_changed_file_is_another_version_also_with_equal_size_and_time(checkpoints, tmp_path):
    base = checkpoints / "crossroads" / "tiny" / "model-112p-10fps.safetensors"
    before = resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes")
    times = (base.stat().st_atime_ns, base.stat().st_mtime_ns)
    base.write_bytes(b"evil")
    os.utime(base, ns=times)
    after = resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes")
    assert after.base.sha256 == sha256_file(base) != before.base.sha256


def test_a_folder_is_hashed_by_names_and_contents(checkpoints, tmp_path):
    before = resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes").text_encoder
    (checkpoints / "crossroads" / "tiny" / "text_encoder" / "extra").write_bytes(b"")
    after = resolve_model(TINY, config(checkpoints), hash_cache=tmp_path / "hashes").text_encoder
    assert before.sha256 != after.sha256


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointMissing, match=r"base checkpoint of model tiny.*model-112p-10fps.*crossroads tiny"):
        resolve_model(TINY, config(tmp_path), hash_cache=tmp_path / "hashes")
    real = Variant(model="2B", resolution="720", fps=16)
    with pytest.raises(CheckpointMissing, match=r"nvidia/Cosmos-Predict2-2B-Video2World/model-720p-16fps\.pt"):
        resolve_model(real, config(tmp_path), hash_cache=tmp_path / "hashes")
    with pytest.raises(CheckpointMissing, match=r"adapter 'its' is not there.*adapters\.its\.path"):
        resolve_adapter("its", AdapterConfig(path=tmp_path / "none.pt"), hash_cache=tmp_path / "hashes")
