"""Strict loading: what is accepted, what is refused and what the refusal says."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_core import checkpoint_report
from cosmos_core.architecture import MODELS, DiTArchitecture, architecture_from_reference
from cosmos_core.checkpoint import base_network, drop_benign, fill_dit, load_dit, read_state_dict
from cosmos_core.checkpoint_kind import CheckpointKind, checkpoint_facts
from cosmos_core.checkpoint_name import check_variant
from cosmos_core.dit import DiT
from cosmos_core.errors import CheckpointMismatch, CheckpointMissing

GOLDEN = Path(__file__).parents[1] / "golden"
LORA_CHECKPOINT = GOLDEN / "lora/iter_000001000.pt"
SMALL = DiTArchitecture(model_channels=64, num_blocks=2, num_heads=2, crossattn_emb_channels=48, adaln_lora_dim=16)


def weights(architecture: DiTArchitecture = SMALL, *, prefix: str = "net.") -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiT(architecture).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    return {prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def expand(layout: dict[str, list[int]], num_blocks: int) -> dict[str, torch.Size]:
    """A golden layout writes the keys of all blocks once."""
    names = {}
    for key, (shape, _) in layout.items():
        for index in range(num_blocks) if "<0..N-1>" in key else (0,):
            names[key.replace("<0..N-1>", str(index))] = torch.Size(shape)
    return names


def pt(state_dict: object, path: Path) -> Path:
    torch.save(state_dict, path)
    return path


@pytest.mark.parametrize("size", ["2B", "14B"])
def test_published_layouts_fit_exactly(size: str) -> None:
    layout = json.loads((GOLDEN / f"layout/video2world_{size}.json").read_text())
    architecture = MODELS[size].dit
    published = expand(layout["state_dict"], architecture.num_blocks)
    with torch.device("meta"):
        network = DiT(architecture).state_dict()
        tensors = {key: torch.empty(shape) for key, shape in published.items()}
    needed = base_network(tensors)
    assert {key: value.shape for key, value in needed.items()} == {key: value.shape for key, value in network.items()}
    facts = checkpoint_facts(tensors)
    assert (facts.kind, facts.size) == (CheckpointKind.BASE, size)
    assert sum(value.numel() for value in network.values()) == layout["num_parameters"]


@pytest.mark.parametrize("prefix", ["net.", ""])
@pytest.mark.parametrize("write", [pt, save_file], ids=["pt", "safetensors"])
def test_weights_arrive_in_the_asked_dtype(tmp_path: Path, prefix: str, write: Callable[..., object]) -> None:
    path = tmp_path / ("model.pt" if write is pt else "model.safetensors")
    source = weights(prefix=prefix)
    write(source, path)
    for dtype in (torch.float32, torch.bfloat16):
        dit = load_dit(path, SMALL, dtype=dtype)
        for name, value in dit.state_dict().items():
            assert torch.equal(value, source[prefix + name].to(dtype))
            assert value.device.type == "cpu"
        assert not any(parameter.requires_grad for parameter in dit.parameters())


def test_entries_that_nothing_needs_are_ignored(tmp_path: Path) -> None:
    extras: dict[str, Tensor | None] = {
        "net.accum_iteration": torch.tensor(3),
        "net.accum_video_sample_counter": torch.tensor(3),
        "net.accum_image_sample_counter": torch.tensor(3),
        "net.accum_train_in_hours": torch.tensor(0.5),
        "net.pos_embedder.seq": torch.arange(128.0),
        "net.pos_embedder.dim_spatial_range": torch.zeros(5),
        "net.pos_embedder.dim_temporal_range": torch.zeros(6),
        "net.t_embedding_norm._extra_state": torch.empty(0),
        "net.blocks.0.self_attn.q_norm._extra_state": None,
    }
    load_dit(pt({**weights(), **extras}, tmp_path / "model.pt"), SMALL)
    assert drop_benign({"net.pos_embedder.seq2": 1, "seq": 2}) == {"net.pos_embedder.seq2": 1, "seq": 2}


def test_ema_is_taken_on_request(tmp_path: Path) -> None:
    live, ema = weights(), {key: value + 1 for key, value in weights(prefix="net_ema.").items()}
    path = pt({**live, **ema}, tmp_path / "model.pt")
    name = "final_layer.linear.weight"
    assert torch.equal(load_dit(path, SMALL, dtype=torch.float32).state_dict()[name], live[f"net.{name}"])
    assert torch.equal(load_dit(path, SMALL, dtype=torch.float32, ema=True).state_dict()[name], ema[f"net_ema.{name}"])
    with pytest.raises(CheckpointMismatch, match="turn the EMA option on"):
        load_dit(pt(ema, tmp_path / "ema.pt"), SMALL)
    with pytest.raises(CheckpointMismatch, match="Turn the EMA option off"):
        load_dit(pt(live, tmp_path / "live.pt"), SMALL, ema=True)
    with pytest.raises(CheckpointMismatch, match="mixes names"):
        load_dit(pt({**live, **weights(prefix="")}, tmp_path / "mixed.pt"), SMALL)


def test_a_lora_checkpoint_is_no_base() -> None:
    manifest = json.loads((GOLDEN / "pipeline/manifest.json").read_text())
    architecture = architecture_from_reference(manifest["dit_constructor_kwargs"])
    with pytest.raises(CheckpointMismatch) as error:
        load_dit(LORA_CHECKPOINT, architecture)
    message = str(error.value)
    assert re.search(r"Unexpected keys in regular model: \['blocks\.0\.[a-z_]+\.[a-z_]+\.base_layer\.weight'", message)
    assert "rank 4 for cross_attn.k_proj" in message
    assert "Declare it as an adapter" in message

    dit = load_dit(LORA_CHECKPOINT, architecture, dtype=torch.float32, lora_base=True)
    base = drop_benign(load_file(GOLDEN / "pipeline/dit_state_dict.safetensors"))
    for name, value in dit.state_dict().items():
        assert torch.equal(value, base[name].bfloat16().float())


def test_mismatches_name_the_likely_cause() -> None:
    small = weights(prefix="")
    lacking = dict(list(small.items())[:-1])
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(final_layer.*download it again"):
        fill_dit(lacking, SMALL)
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected \(blocks.0.surprise\)"):
        fill_dit({**small, "blocks.0.surprise": torch.zeros(1)}, SMALL)
    deeper = weights(dataclasses.replace(SMALL, num_blocks=3), prefix="")
    with pytest.raises(CheckpointMismatch, match=r"unexpected \(blocks\.2\..*The file has 3 blocks"):
        fill_dit(deeper, SMALL)
    with pytest.raises(CheckpointMismatch, match="The file is a tiny model"):
        fill_dit(weights(MODELS["tiny"].dit, prefix=""), SMALL)
    text2image = {
        name: value[:, : 17 * 4] if name == "x_embedder.proj.1.weight" else value for name, value in small.items()
    }
    with pytest.raises(CheckpointMismatch, match=r"\[64, 68\] and not \[64, 72\].*Text2Image"):
        fill_dit(text2image, SMALL)


@pytest.mark.parametrize(
    ("names", "kind", "fix"),
    [
        (["encoder.conv1.weight", "decoder.conv1.weight"], CheckpointKind.VAE, "This is the tokenizer"),
        (["transformer_blocks.0.attn1.to_q.weight"], CheckpointKind.DIFFUSERS, "converted for diffusers"),
        (["blocks.0.self_attn.q_proj.lora_A.weight"], CheckpointKind.LORA_ADAPTER, "declare this file as an adapter"),
        (
            ["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
            CheckpointKind.TEXT_ENCODER,
            "This is the text encoder",
        ),
        (["model.something"], CheckpointKind.UNKNOWN, "another prefix"),
    ],
)
def test_other_kinds_of_file_are_recognised(names: list[str], kind: CheckpointKind, fix: str) -> None:
    tensors = {name: torch.zeros(4, 4) for name in names}
    assert checkpoint_facts(tensors).kind is kind
    with pytest.raises(CheckpointMismatch, match=f"got {re.escape(kind)}.*{fix}"):
        base_network(tensors)


def test_a_prefix_of_another_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"Names carry the prefix module\."):
        load_dit(pt(weights(prefix="module."), tmp_path / "model.pt"), SMALL)


def test_pickles_that_could_run_code_are_refused(tmp_path: Path) -> None:
    class Dangerous:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "was_run",))  # type: ignore[return-value]

    path = pt({"net.x": Dangerous()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointMismatch, match="holds more than tensors"):
        read_state_dict(path)
    assert not (tmp_path / "was_run").exists()
    with pytest.raises(CheckpointMismatch, match=r"got model \(dict\).*Save the inner state dict"):
        read_state_dict(pt({"model": {"x": torch.zeros(1)}}, tmp_path / "nested.pt"))
    with pytest.raises(CheckpointMismatch, match="no state dict"):
        read_state_dict(pt([torch.zeros(1)], tmp_path / "list.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    (pt if suffix == ".pt" else save_file)(weights(), path)  # type: ignore[operator]
    data = path.read_bytes()
    for content, message in (
        (data[: len(data) // 2], "damaged"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<html>not found</html>", "damaged"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointMismatch, match=message):
            read_state_dict(path)


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="no such checkpoint"):
        read_state_dict(tmp_path / "model.pt")
    with pytest.raises(CheckpointMissing, match="no weights in"):
        read_state_dict(tmp_path)
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(CheckpointMismatch, match=r"got .txt, expected .pt"):
        read_state_dict(tmp_path / "model.txt")


def test_files_older_than_zip_archives_are_read(tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_state_dict(tmp_path / "old.pth").keys() == weights().keys()


def test_shards_are_put_together(tmp_path: Path) -> None:
    source = weights()
    names = sorted(source)
    shards = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for shard, members in shards.items():
        save_file({name: source[name] for name in members}, tmp_path / shard)
    index = tmp_path / "model.safetensors.index.json"
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    index.write_text(json.dumps({"weight_map": weight_map}))
    for path in (tmp_path, index):
        tensors = read_state_dict(path)
        assert all(torch.equal(tensors[name], source[name]) for name in names)
    load_dit(tmp_path, SMALL)

    index.write_text(json.dumps({"weight_map": {**weight_map, "net.other": "b.safetensors"}}))
    with pytest.raises(CheckpointMismatch, match=r"first net\.other"):
        read_state_dict(tmp_path)
    index.write_text(json.dumps({"weight_map": {**weight_map, "net.other": "../c.safetensors"}}))
    with pytest.raises(CheckpointMissing, match="a shard"):
        read_state_dict(tmp_path)
    index.write_text("[]")
    with pytest.raises(CheckpointMismatch, match="no index"):
        read_state_dict(tmp_path)
    index.unlink()
    with pytest.raises(CheckpointMismatch, match=r"got a.safetensors, b.safetensors, expected one"):
        read_state_dict(tmp_path)


def test_loading_does_not_follow_the_file(tmp_path: Path) -> None:
    source = weights()
    path = pt(source, tmp_path / "model.pt")
    dit = load_dit(path, SMALL, dtype=torch.float32)
    path.write_bytes(bytes(path.stat().st_size))  # would change weights that are still mapped from the file
    for name, value in dit.state_dict().items():
        assert torch.equal(value, source[f"net.{name}"])


def test_the_name_of_a_variant_must_fit() -> None:
    check_variant("model-480p-10fps.pt", "480", 10)
    check_variant("my-finetune.pt", "720", 16)
    check_variant("model-480p-10fps.pt", "720", 16, force=True)
    for resolution, fps in (("720", 10), ("480", 16)):
        with pytest.raises(CheckpointMismatch, match=f"got 480p at 10 fps, expected {resolution}p at {fps} fps"):
            check_variant("checkpoints/model-480p-10fps.pt", resolution, fps)


def test_report_of_a_training_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_report.main([str(LORA_CHECKPOINT), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "LoRA training checkpoint"
    assert report["size"] == "other"
    assert report["lora_ranks"] == [4]
    assert "mlp.layer1" in report["lora_targets"]
    assert len(report["lora_targets"]) == 10
    assert report["networks"]["net."]["dtypes"] == ["bfloat16"]
    assert report["networks"]["net_ema."]["dtypes"] == ["float32"]
    assert report["networks"]["net."]["num_tensors"] == report["networks"]["net_ema."]["num_tensors"]
    assert len(report["sha256"]) == 64

    assert checkpoint_report.main([str(LORA_CHECKPOINT), "--no-hash"]) == 0
    text = capsys.readouterr().out
    assert "LoRA rank   4 (alpha is not stored in the file)" in text
    assert "sha256" not in text


def test_report_of_other_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoint_report.main([str(GOLDEN / "tokenizer/state_dict.safetensors")]) == 0
    assert "video VAE" in capsys.readouterr().out
    tiny = tmp_path / "tiny.safetensors"
    save_file(weights(MODELS["tiny"].dit), tiny)
    assert checkpoint_report.checkpoint_report(tiny)["size"] == "tiny"
    assert checkpoint_report.main([str(tmp_path / "absent.pt")]) == 1
    assert "no such checkpoint" in capsys.readouterr().err
