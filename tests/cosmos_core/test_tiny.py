"""The tiny model that ships with Crossroads: whole, verified, and really trained."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_core import tiny
from cosmos_core.adapter_file import AdapterKind, StoredAdapter, read_adapter
from cosmos_core.architecture import MODELS
from cosmos_core.checkpoint import load_dit
from cosmos_core.errors import BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.geometry import video_geometry
from cosmos_core.hashing import sha256_file
from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT
from cosmos_core.pixels import normalise, to_bytes
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.tiny import SHIPPED_WEIGHTS, SUMS, install_tiny, training_checkpoint
from cosmos_core.vae import VideoVAE
from cosmos_core.video2world import Video2World
from examples.traffic_world import Clip, make_clip
from tasks.config import load_config

MODEL = MODELS["tiny"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_tiny(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="module")
def scene() -> Clip:
    """A scene that no training saw."""
    return make_clip(3)


@pytest.fixture(scope="module")
def vae(folder: Path) -> VideoVAE:
    return VideoVAE.load(folder / "tokenizer/tokenizer.safetensors", MODEL.vae, dtype=torch.float32)


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(frames.astype(float) - truth.astype(float)).mean() / 255**2))


def test_is_small_and_lists_every_file() -> None:
    files = [path for path in SHIPPED_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 48e6
    assert max(path.stat().st_size for path in files) < 16e6
    listed = {line.split("  ")[1] for line in (SHIPPED_WEIGHTS / SUMS).read_text().splitlines()}
    assert listed == {path.relative_to(SHIPPED_WEIGHTS).as_posix() for path in files} - {SUMS}


@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_an_adapter_belongs_to_the_shipped_base_and_comes_in_both_forms(folder: Path, name: str) -> None:
    extracted = read_adapter(folder / "adapters" / f"{name}.safetensors")
    assert extracted.manifest is not None
    assert extracted.manifest.base_sha256 == sha256_file(folder / MODEL.checkpoint_name("112", 10))
    assert (extracted.spec().rank, extracted.spec().alpha) == (16, 16.0)
    trained = read_adapter(folder / "posttraining" / name / "iter_000000001.pt")
    assert trained.kind is AdapterKind.TRAINING
    assert trained.tensors.keys() == extracted.tensors.keys()
    assert all(torch.equal(trained.tensors[key], value) for key, value in extracted.tensors.items())


def test_the_default_configuration_names_every_adapter() -> None:
    config = load_config()
    assert {name: adapter.path.stem for name, adapter in config.adapters.items()} == {
        name: name for name in tiny.ADAPTERS
    }


def test_what_is_there_is_left_alone(folder: Path, tmp_path: Path) -> None:
    copy = install_tiny(tmp_path)
    (copy / "README.md").write_text("mine")
    assert install_tiny(tmp_path) == copy
    assert (copy / "README.md").read_text() == "mine"
    install_tiny(tmp_path, overwrite=True)
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text()
    assert [path.name for path in copy.parent.iterdir()] == ["tiny"]
    (copy / "text_encoder/config.json").unlink()
    with pytest.raises(BadRequest, match=r"no text_encoder/config\.json"):
        install_tiny(tmp_path)


def test_damaged_or_missing_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "weights"
    shutil.copytree(SHIPPED_WEIGHTS, shipped)
    monkeypatch.setattr(tiny, "SHIPPED_WEIGHTS", shipped)
    config = shipped / "text_encoder/config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(CheckpointMismatch, match=r"config\.json was changed"):
        install_tiny(tmp_path / "root")
    config.unlink()
    with pytest.raises(CheckpointMissing, match=r"config\.json"):
        install_tiny(tmp_path / "root")
    assert not (tmp_path / "root/crossroads/tiny").exists()


def test_the_command_lists_files_with_their_hashes(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tiny.main([str(folder.parents[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(r"[0-9a-f]{64}  .+", line) for line in lines)
    assert len(lines) >= 8
    (tmp_path / "crossroads/tiny").mkdir(parents=True)
    assert tiny.main([str(tmp_path)]) == 1
    assert "not the whole tiny model" in capsys.readouterr().err


def test_a_training_checkpoint_holds_base_and_adapter() -> None:
    base = {"net.a.weight": torch.zeros(2, 2), "net.b.weight": torch.ones(2, 2)}
    matrices = {"a.lora_A": torch.zeros(1, 2), "a.lora_B": torch.ones(2, 1)}
    adapter = StoredAdapter(path=Path("x"), kind=AdapterKind.EXTRACTED, tensors=matrices, manifest=None)
    checkpoint = training_checkpoint(base, adapter)
    assert set(checkpoint) == {
        "net.a.base_layer.weight",
        "net.a.lora_A.default.weight",
        "net.a.lora_B.default.weight",
        "net.b.weight",
    }


def test_the_vae_keeps_clips_it_never_saw(vae: VideoVAE, scene: Clip) -> None:
    video = normalise(torch.from_numpy(scene.frames[:25]).permute(3, 0, 1, 2)[None], dtype=torch.float32)
    again = to_bytes(vae.decode(vae.encode(video)))
    assert psnr(again[0], scene.frames[0]) > 28
    assert psnr(again[-4:], scene.frames[21:25]) > 28


@pytest.mark.slow
def test_a_clip_begins_with_the_input_holds_the_camera_and_moves(folder: Path, vae: VideoVAE, scene: Clip) -> None:
    text_encoder = TextEncoder.load(folder / "text_encoder", max_length=MODEL.text_length)
    texts = text_encoder.encode([scene.caption, DEFAULT_NEGATIVE_PROMPT])
    assert not texts.truncated[0]
    dit = load_dit(folder / MODEL.checkpoint_name("112", 10), MODEL.dit, dtype=torch.float32)
    generation = Video2World(dit, vae).generate(
        scene.frames[:1],
        texts.embeddings[:1],
        geometry=video_geometry(model="tiny", resolution="112", fps=10, aspect_ratio="16:9"),
        negative_embedding_1ND=texts.embeddings[1:],
        guidance=2.0,
        num_steps=8,
        seed=1,
    )
    frames = generation.frames.astype(float)
    assert psnr(generation.frames[0], scene.frames[0]) > 25
    change = np.abs(frames - frames[0]).mean(axis=-1)
    moved = np.abs(scene.frames.astype(float) - scene.background).max(axis=(0, 3)) > 12
    assert moved.any()
    assert change[10:, ~moved].mean() < 9  # the camera stays
    assert change[10:].max(axis=0)[moved].mean() > 20  # and something drives
