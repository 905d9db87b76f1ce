"""Estimates of memory against what was measured on a GPU, and against networks that run without values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cosmos_core.architecture import MODELS
from cosmos_core.dit import DiT
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.lora import activate, adapter_shapes, add_adapter
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.memory_mode import SAVINGS, STRIP_ROWS, WORKER_SAVINGS
from cosmos_core.memory_model import GIB, WorkerLoad, peak_bytes, worker_memory
from cosmos_core.vae import VideoVAE, build_layers
from tests.live_memory import LiveMemory


def geometry(resolution: str, fps: int = 16, model: str = "2B") -> VideoGeometry:
    return video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio="16:9")


def load(model: str = "2B", resolution: str = "720", fps: int = 16, **changes: Any) -> WorkerLoad:
    return WorkerLoad(model=MODELS[model], geometry=geometry(resolution, fps, model), **changes)


def _without_scores(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention as the fused kernels of a GPU hold it: no tensor of tokens x tokens."""
    return torch.empty_like(q)


def part(phases: dict, phase: str, *names: str) -> int:
    found = {part.name: part.num_bytes for part in phases[phase]}
    return sum(found[name] for name in names)


def test_the_measured_forwards_are_met(repository: Path) -> None:
    """Within 3 %; transformer and one forward alone, as the benchmark measures them."""
    rows = json.loads((repository / "benchmarks/results/h200-forward.json").read_text())["rows"]
    ours = [row for row in rows if row["implementation"] == "crossroads"]
    assert len(ours) == 5
    for row in ours:
        model, resolution, fps, _ = row["variant"].split()
        phases = worker_memory(load(model, resolution.rstrip("p"), int(fps)))
        estimate = part(phases, "denoise", "transformer", "activations of a forward") / GIB
        assert estimate == pytest.approx(row["peak_gib"], rel=0.03), row["variant"]
        assert estimate >= row["peak_gib"] * 0.995


def test_the_measured_video_is_met(repository: Path) -> None:
    """One whole run with an adapter merged: decoding is its peak, and the estimate is within 2 %."""
    result = json.loads((repository / "benchmarks/results/h200-full-run.json").read_text())["generation"]
    phases = worker_memory(load(adapter_ranks=(16,)), savings=("text",))
    assert peak_bytes(phases) / GIB == pytest.approx(result["peak_gpu_gib"], rel=0.02)
    assert peak_bytes(phases) == sum(part.num_bytes for part in phases["decode"])


@pytest.mark.parametrize("num_adapters", [0, 1, 3])
@pytest.mark.parametrize(("model", "resolution"), [("2B", "480"), ("2B", "720"), ("14B", "720")])
def test_tensors_alive_in_a_forward(model: str, resolution: str, num_adapters: int) -> None:
    size = geometry(resolution, model=model)
    dtype = torch.bfloat16
    spec = LoraSpec(rank=16, alpha=16)
    with torch.device("meta"):
        dit = DiT(replace(MODELS[model].dit, num_blocks=2)).to(dtype).requires_grad_(False)
        shapes = adapter_shapes(dit, spec)
        for index in range(num_adapters):
            tensors = {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
            add_adapter(dit, tensors, spec, name=f"a{index}")
        latent = (size.num_latent_frames, size.latent_height, size.latent_width)
        x, mask = torch.empty(1, 16, *latent, dtype=dtype), torch.empty(1, 1, *latent, dtype=dtype)
        times, text = torch.empty(1, latent[0], dtype=dtype), torch.empty(1, 512, 1024, dtype=dtype)
    if num_adapters:
        activate(dit, {f"a{index}": 1.0 for index in range(num_adapters)})
    for cross in (False, True):
        dit.set_attention(_without_scores, cross=cross)
    with torch.no_grad(), LiveMemory(dit) as live:
        dit(x, times, text, condition_mask_B1THW=mask)
    estimate = part(worker_memory(load(model, resolution)), "denoise", "activations of a forward")
    assert 0.9 < live.peak / estimate < 1.0


@pytest.mark.slow
@pytest.mark.parametrize("resolution", ["480", "720"])
@pytest.mark.parametrize("strips", [False, True])
def test_tensors_alive_in_the_vae(resolution: str, strips: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what convolutions need beyond their tensors, which no network without values shows."""
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", _without_scores)
    size = geometry(resolution)
    layers = build_layers(MODELS["2B"].vae)
    layers.load_state_dict({name: value.bfloat16() for name, value in layers.state_dict().items()}, assign=True)
    vae = VideoVAE(layers)
    vae.strip_rows = STRIP_ROWS if strips else None
    with torch.device("meta"):
        latents = torch.empty(1, 16, size.num_latent_frames, size.latent_height, size.latent_width)
    with LiveMemory() as live:
        vae.decode(latents)
    phases = worker_memory(load(resolution=resolution), savings=("strips",) if strips else ())
    name = "decoding in strips" if strips else "decoding"
    estimate = part(phases, "decode", name, "decoded frames")
    assert 0.85 < live.peak / estimate < 0.95
    for num_frames in (1, 5):
        with torch.device("meta"):
            video = torch.empty(1, 3, num_frames, size.height, size.width, dtype=torch.bfloat16)
        with LiveMemory() as live:
            vae.encode(video)
        phases = worker_memory(load(resolution=resolution, num_conditional_frames=num_frames))
        assert 0.88 < live.peak / part(phases, "encode", "encoding") < 0.92


def test_every_saving_of_a_worker_saves_and_the_others_are_not_its_own() -> None:
    full = load(adapter_ranks=(16, 16))
    eight_bits = load(quantize="fp8", adapter_ranks=(16,))
    cases = {
        "base": (full, "decode"),
        "strips": (full, "decode"),
        "text": (full, "text"),
        "loading": (eight_bits, "load"),
    }
    assert set(cases) == set(WORKER_SAVINGS)
    for saving, (needs, phase) in cases.items():
        before, after = worker_memory(needs), worker_memory(needs, savings=(saving,))
        assert sum(p.num_bytes for p in before[phase]) > sum(p.num_bytes for p in after.get(phase, ()))
    for saving in set(SAVINGS) - set(WORKER_SAVINGS):
        assert worker_memory(full, savings=(saving,)) == worker_memory(full)


def test_sharing_the_tokens_shares_the_activations_and_not_the_weights() -> None:
    one, four = worker_memory(load("14B")), worker_memory(load("14B"), ulysses=4)
    assert part(one, "denoise", "transformer") == part(four, "denoise", "transformer")
    name = "activations of a forward"
    assert 0.25 < part(four, "denoise", name) / part(one, "denoise", name) < 0.28
    assert one["decode"] == four["decode"]


def test_eight_bits_match_what_was_measured(repository: Path) -> None:
    measured = json.loads((repository / "benchmarks/results/h200-quantization.json").read_text())
    for row in measured["schemes"]:
        phases = worker_memory(load(quantize=row["name"]))
        assert part(phases, "denoise", "transformer") == pytest.approx(row["bytes"], rel=0.002)
