"""Adapters leave training checkpoints with everything that the checkpoint could not say, and come back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cosmos_core.adapter_extract import extract_adapter, weights_sha256
from cosmos_core.adapter_file import AdapterKind, read_adapter, write_adapter
from cosmos_core.adapter_manifest import METADATA_KEY, AdapterManifest, read_header_metadata, read_manifest
from cosmos_core.adapter_names import shortest_targets
from cosmos_core.checkpoint import base_network
from cosmos_core.errors import AdapterMismatch, BadRequest, CheckpointMissing
from cosmos_core.hashing import sha256_file
from cosmos_core.lora_state_dict import lora_tensors

GOLDEN = Path(__file__).parents[1] / "golden/lora"
TRAINING = GOLDEN / "iter_000001000.pt"
SIX = ("q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2")


@pytest.fixture(scope="module")
def training() -> dict[str, torch.Tensor]:
    return torch.load(TRAINING, weights_only=True)


@pytest.fixture
def base(training, tmp_path) -> Path:
    """The base checkpoint that the training started from."""
    path = tmp_path / "model-480p-10fps.safetensors"
    save_file({f"net.{name}": value.clone() for name, value in base_network(training, lora_base=True).items()}, path)
    return path


def identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


class TestExtraction:
    def test_the_manifest_says_what_the_checkpoint_could_not(self, base, tmp_path):
        out = tmp_path / "adapters" / "rain.safetensors"
        manifest = extract_adapter(TRAINING, out, alpha=8, base=base)
        assert manifest == read_manifest(out)
        assert manifest.model_dump() == {
            "format_version": 1,
            "rank": 4,
            "alpha": 8.0,
            "target_modules": SIX,
            "base_sha256": sha256_file(base),
            "base_sha256_of": "file",
            "resolution": "480",
            "fps": 10,
            "iteration": 1000,
            "ema": False,
            "source_name": "iter_000001000.pt",
            "source_sha256": sha256_file(TRAINING),
            "created_by": manifest.created_by,
        }
        assert manifest.created_by.startswith("crossroads ")

    @pytest.mark.parametrize(("ema", "dtype"), [(False, torch.bfloat16), (True, torch.float32)])
    def test_tensors_stay_bitwise(self, training, tmp_path, ema, dtype):
        out = tmp_path / "rain.safetensors"
        assert extract_adapter(TRAINING, out, alpha=8, ema=ema).ema is ema
        stored = read_adapter(out)
        assert stored.kind is AdapterKind.EXTRACTED
        assert identical(stored.tensors, lora_tensors(training, ema=ema))
        assert {tensor.dtype for tensor in stored.tensors.values()} == {dtype}
        assert (stored.rank, stored.num_parameters, len(stored.modules)) == (4, 13312, 20)

    def test_names_in_the_file_are_those_of_training(self, training, tmp_path):
        extract_adapter(TRAINING, tmp_path / "rain.safetensors", alpha=8)
        names = set(load_file(tmp_path / "rain.safetensors"))
        assert names == {n.removeprefix("net.") for n in training if n.startswith("net.") and "lora_" in n}

    def test_without_the_base_file_its_weights_are_hashed(self, training, base, tmp_path):
        manifest = extract_adapter(TRAINING, tmp_path / "rain.safetensors", alpha=8)
        assert manifest.base_sha256_of == "weights"
        plain = {name.removeprefix("net."): value for name, value in load_file(base).items()}
        assert manifest.base_sha256 == weights_sha256(plain)
        # The average was trained on the same base.
        assert extract_adapter(TRAINING, tmp_path / "ema.safetensors", alpha=8, ema=True).base_sha256 == (
            manifest.base_sha256
        )
        name = next(iter(plain))
        plain[name] = plain[name] + 1
        assert weights_sha256(plain) != manifest.base_sha256

    def test_another_base_is_refused(self, base, tmp_path):
        tensors = load_file(base)
        tensors["net.blocks.1.mlp.layer1.weight"] += 0.01
        other = tmp_path / "other.safetensors"
        save_file(tensors, other)
        with pytest.raises(AdapterMismatch, match=r"another base than .*other weights in blocks.1.mlp.layer1.weight,"):
            extract_adapter(TRAINING, tmp_path / "rain.safetensors", alpha=8, base=other)
        with pytest.raises(AdapterMismatch, match="no base checkpoint: got LoRA training checkpoint"):
            extract_adapter(TRAINING, tmp_path / "rain.safetensors", alpha=8, base=TRAINING)
        assert not (tmp_path / "rain.safetensors").exists()

    def test_equal_content_gives_equal_bytes(self, tmp_path):
        for name in ("one", "two"):
            extract_adapter(TRAINING, tmp_path / f"{name}.safetensors", alpha=8)
        assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()

    @pytest.mark.parametrize(
        ("declared", "message"),
        [
            ({"rank": 8}, "size mismatch for blocks.0.cross_attn.k_proj.lora_A.default.weight"),
            ({"target_modules": "q_proj"}, "No module named 'blocks.0.cross_attn.k_proj' found for LoRA"),
            ({"target_modules": "q_proj,linear_9"}, "No module named 'linear_9' found for LoRA"),
            ({"alpha": 0}, "got rank 4, alpha 0"),
            ({"source_adapter": "rain"}, "another name"),
        ],
    )
    def test_what_is_declared_is_checked(self, tmp_path, declared, message):
        with pytest.raises(AdapterMismatch, match=message):
            extract_adapter(TRAINING, tmp_path / "rain.safetensors", **{"alpha": 8, **declared})
        assert list(tmp_path.iterdir()) == []

    def test_an_incomplete_pair_is_refused(self, training, tmp_path):
        missing = "net.blocks.1.cross_attn.v_proj.lora_A.default.weight"
        torch.save({name: value for name, value in training.items() if name != missing}, tmp_path / "iter_1.pt")
        with pytest.raises(AdapterMismatch, match=r"Missing keys in regular model: \['blocks.1.cross_attn.v_proj"):
            extract_adapter(tmp_path / "iter_1.pt", tmp_path / "rain.safetensors", alpha=8)

    def test_nothing_is_overwritten_unasked(self, tmp_path):
        out = tmp_path / "rain.safetensors"
        extract_adapter(TRAINING, out, alpha=8)
        with pytest.raises(BadRequest, match="is there already"):
            extract_adapter(TRAINING, out, alpha=16)
        assert extract_adapter(TRAINING, out, alpha=16, overwrite=True) == read_manifest(out)
        with pytest.raises(BadRequest, match=r"expected a name in .safetensors"):
            extract_adapter(TRAINING, tmp_path / "rain.pt", alpha=8)

    def test_only_training_checkpoints_are_extracted(self, tmp_path):
        with pytest.raises(AdapterMismatch, match=r"got LoRA tensors without a manifest.*adapter import"):
            extract_adapter(GOLDEN / "subset_lora_tensors.safetensors", tmp_path / "rain.safetensors", alpha=3)


class TestReading:
    def test_a_training_checkpoint_keeps_its_base_weights(self, training):
        stored = read_adapter(TRAINING)
        assert (stored.kind, stored.manifest) == (AdapterKind.TRAINING, None)
        name = "blocks.0.mlp.layer2"
        assert torch.equal(stored.base_weights[name], training[f"net.{name}.base_layer.weight"])

    def test_bare_tensors_need_a_declaration(self):
        stored = read_adapter(GOLDEN / "subset_lora_tensors.safetensors")
        assert (stored.kind, stored.rank) == (AdapterKind.BARE, 3)
        with pytest.raises(AdapterMismatch, match="does not say the alpha"):
            stored.spec()
        assert stored.spec(alpha=6, target_modules="mlp.layer2").scale == 2

    def test_a_changed_file_is_noticed(self, training, tmp_path):
        path = tmp_path / "rain.safetensors"
        write_adapter(path, lora_tensors(training), AdapterManifest(rank=8, alpha=8, target_modules=SIX))
        with pytest.raises(AdapterMismatch, match=r"manifest .* not that of its tensors.*rank 4, expected rank 8"):
            read_adapter(path)

    def test_matrices_of_several_ranks_are_refused(self, training, tmp_path):
        tensors = lora_tensors(training)
        tensors["blocks.0.mlp.layer1.lora_A"] = torch.zeros(9, 64)
        path = tmp_path / "rain.safetensors"
        write_adapter(path, tensors, AdapterManifest(rank=4, alpha=8, target_modules=SIX))
        with pytest.raises(AdapterMismatch, match="several ranks: got 4, 9"):
            read_adapter(path)

    @pytest.mark.parametrize(
        ("manifest", "message"),
        [
            ("{}", "rank: Field required"),
            ('{"format_version": 2, "rank": 4, "alpha": 8, "target_modules": []}', "format_version"),
            ('{"rank": 4, "alpha": -1, "target_modules": []}', "alpha: Input should be greater than 0"),
            ("not json", "Invalid JSON"),
        ],
    )
    def test_a_damaged_manifest_is_refused(self, training, tmp_path, manifest, message):
        path = tmp_path / "rain.safetensors"
        save_file({f"{n}.weight": v for n, v in lora_tensors(training).items()}, path, {METADATA_KEY: manifest})
        with pytest.raises(AdapterMismatch, match=message):
            read_adapter(path)

    def test_the_header_is_read_without_tensors(self, training, tmp_path):
        path = tmp_path / "rain.safetensors"
        save_file({"x": torch.zeros(2)}, path, {"a": "b"})
        assert read_header_metadata(path) == {"a": "b"}
        assert read_manifest(path) is None
        save_file({"x": torch.zeros(2)}, path)
        assert read_header_metadata(path) == {}
        with pytest.raises(CheckpointMissing):
            read_header_metadata(tmp_path / "none.safetensors")
        for content in (b"", b"\x10" + bytes(7) + b"{", b"PK\x03\x04 a zip archive", json.dumps([1]).encode()):
            path.write_bytes(content)
            with pytest.raises(AdapterMismatch, match="no safetensors file"):
                read_header_metadata(path)


class TestShortestTargets:
    LAYERS = ("self_attn", "cross_attn")

    @pytest.mark.parametrize(
        ("layers", "targets"),
        [
            ([f"{a}.{p}" for a in LAYERS for p in SIX[:4]] + list(SIX[4:]), SIX),
            (["self_attn.q_proj", "cross_attn.q_proj"], ("q_proj",)),
            (["self_attn.q_proj", "mlp.layer2"], ("mlp.layer2", "self_attn.q_proj")),
        ],
    )
    def test_match_the_adapted_layers_and_no_others(self, layers, targets):
        assert shortest_targets([f"blocks.{n}.{layer}" for n in range(12) for layer in layers]) == targets

    def test_fall_back_to_whole_names(self):
        adapted = ["blocks.0.mlp.layer1", "t_embedder.1.linear_1"]
        linears = [*adapted, "blocks.1.mlp.layer1"]
        assert set(shortest_targets(adapted, linears)) == set(adapted)
