"""The report on 8-bit weights: its numbers are those of the networks that it says it measures."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import quantization
from benchmarks.quantization import compare, layer_errors, main, make_task, random_adapter, run_report
from benchmarks.variants import build_dit
from cosmos_core.architecture import MODELS
from cosmos_core.dit import DiT
from cosmos_core.geometry import VideoGeometry
from cosmos_core.lora import loaded_adapters
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.quantize import large_linears, quantize_base

GEOMETRY = VideoGeometry(width=64, height=64, num_latent_frames=2, fps=10)
SPEC = LoraSpec(rank=4, alpha=8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are slower when they are shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dit() -> DiT:
    return build_dit(MODELS["micro"].dit, torch.device("cpu"), torch.float32)


@pytest.fixture
def small_geometry(monkeypatch) -> None:
    monkeypatch.setattr(quantization, "video_geometry", lambda **_: GEOMETRY)


def test_report_has_every_network_and_its_errors(dit):
    task = make_task(dit, GEOMETRY, num_steps=1, guidance=1.0)
    report = run_report(dit, {"a": (random_adapter(dit, SPEC), SPEC)}, task, ("fp8", "int8"), repeats=1)
    rows = {row["name"]: row for row in report["schemes"]}
    assert list(rows) == ["bfloat16", "fp8", "int8"]
    assert rows["bfloat16"]["bytes"] == report["base"]["bytes"] / 2
    assert rows["fp8"]["bytes"] < rows["bfloat16"]["bytes"]
    for row in rows.values():
        assert len(row["layers"]) == 40
        assert row["seconds"] > 0
    for key in ("forward", "forward_lora", "latents", "latents_lora"):
        assert 0 < rows["int8"][key]["relative_l2"] < rows["fp8"][key]["relative_l2"] < 0.1
        assert rows["int8"][key]["psnr_db"] > rows["fp8"][key]["psnr_db"]
    assert rows["fp8"]["forward"] != rows["fp8"]["forward_lora"]
    fp8, int8 = report["stored_adapters"]
    assert 0.5 < int8["bytes"] / int8["bytes_bfloat16"] < 0.85
    assert 0 < int8["mean_error"] < fp8["mean_error"] < fp8["max_error"] < 0.04
    assert 0 < int8["latents_lora"]["relative_l2"] < fp8["latents_lora"]["relative_l2"]
    assert loaded_adapters(dit) == ["a"]


def test_layer_errors_name_the_layer_that_is_off(dit):
    task = make_task(dit, GEOMETRY, num_steps=1, guidance=0.0)
    other = build_dit(MODELS["micro"].dit, torch.device("cpu"), torch.float32)
    quantize_base(other, "int8")
    name = "blocks.2.mlp.layer1"
    dict(large_linears(other))[name].scale.mul_(1.5)
    errors = layer_errors(dit, other, task)
    assert errors.keys() == dict(large_linears(dit)).keys()
    assert errors[name] == pytest.approx(0.5, abs=0.01)
    assert max(error for key, error in errors.items() if key != name) < 0.02


def test_compare():
    expected = torch.tensor([0.0, 3.0, -4.0, 0.0])
    result = compare(expected + torch.tensor([0.5, 0.0, 0.0, 0.0]), expected)
    assert result["relative_l2"] == pytest.approx(0.1)
    assert result["psnr_db"] == pytest.approx(28.94, abs=0.01)  # 10 log10(7^2 / (0.5^2 / 4))


@pytest.mark.usefixtures("small_geometry")
def test_command_prints_tables_and_writes_everything(tmp_path, capsys):
    path = tmp_path / "out.json"
    assert main(["--model", "micro", "--steps", "1", "--repeats", "1", "--scheme", "int8", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for start in ("weights: random", "base weights", "layers", "error", "adapters in"):
        assert sum(line.startswith(start) for line in lines) == 1
    assert sum(line.startswith("int8") for line in lines) == 4
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["schemes"]] == ["bfloat16", "int8"]
    assert written["adapters"] == ["random"]


@pytest.mark.usefixtures("small_geometry")
def test_command_takes_files(tmp_path, dit, capsys):
    save_file(dit.state_dict(), tmp_path / "model.safetensors")
    adapter = random_adapter(dit, LoraSpec(rank=4, alpha=8))
    adapter = {f"{name}.default.weight": tensor for name, tensor in adapter.items()}
    save_file(adapter, tmp_path / "adapter.safetensors")
    given = ["--checkpoint", str(tmp_path / "model.safetensors"), "--adapter", str(tmp_path / "adapter.safetensors")]
    given += ["--steps", "1", "--repeats", "1", "--scheme", "fp8", "--compute", "scaled_mm", "--guidance", "0"]
    assert main([*given, "--alpha", "8", "--dtype", "bfloat16"]) == 0
    output = capsys.readouterr().out
    assert "adapter.safetensors" in output
    assert "scaled_mm" in output


def test_unknown_schemes_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--scheme", "fp8,int4"])
    assert "no such scheme: int4" in capsys.readouterr().err
