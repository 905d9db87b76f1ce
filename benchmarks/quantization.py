"""What 8-bit weights save, and what they cost in accuracy and seconds, on this machine.

    python -m benchmarks.quantization --model 2B --resolution 720 --fps 16 --steps 8 --json out.json
    python -m benchmarks.quantization --model 2B --checkpoint model-720p-16fps.pt --adapter collision.safetensors

Everything is compared with the same network in its own dtype, on the same inputs and the same noise, without adapters
and with them. Without `--checkpoint` or `--adapter` the weights are random numbers. Latents and text embeddings are
random in either case: no text encoder and no VAE is needed. See docs/quantization.md for how to read the tables.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.variants import build_dit, inputs, measure
from cosmos_core.adapter_file import read_adapter
from cosmos_core.architecture import MODELS
from cosmos_core.checkpoint import load_dit
from cosmos_core.conditioning import guided_denoiser
from cosmos_core.dit import DiT
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.lora import activate, adapter_shapes, add_adapter, unload_adapter
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.quantize import (
    Compute,
    base_bytes,
    dequantize_adapter,
    large_linears,
    quantize_adapter,
    quantize_base,
)
from cosmos_core.quantized_linear import Scheme
from cosmos_core.random_tensor import random_tensor
from cosmos_core.sampler import initial_noise, sample, sigma_schedule

_NUM_WORST = 3
_MIB = 2**20

Adapters = Mapping[str, tuple[dict[str, Tensor], LoraSpec]]
"""Tensors `<module>.lora_A`, `<module>.lora_B` and their declaration, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every network is given: one forward, and one sampling run from fixed noise."""

    forward_inputs: dict[str, Tensor]
    negative: Tensor
    noise: Tensor
    num_steps: int
    guidance: float
    fps: int

    def forward(self, dit: DiT) -> Tensor:
        given = self.forward_inputs
        return dit(
            given["x"],
            given["timesteps"],
            given["text"],
            condition_mask_B1THW=given["mask"],
            fps_B=torch.tensor([self.fps]),
        )

    def final_latents(self, dit: DiT) -> Tensor:
        x0_fn = guided_denoiser(
            dit,
            clean_BCKHW=self.forward_inputs["x"][:, :, :1].float(),
            prompt_BND=self.forward_inputs["text"],
            negative_BND=self.negative,
            guidance=self.guidance,
            fps_B=torch.tensor([self.fps]),
        )
        return sample(x0_fn, self.noise, sigma_schedule(self.num_steps))


def make_task(dit: DiT, geometry: VideoGeometry, *, num_steps: int, guidance: float, seed: int = 0) -> Task:
    """Random inputs of the geometry's size, in the network's dtype and on its device."""
    given = inputs(dit.architecture, geometry, dit.device, dit.dtype)
    return Task(
        forward_inputs=given,
        negative=given["text"].flip(1),
        noise=initial_noise(given["x"].shape, seed).to(dit.device),
        num_steps=num_steps,
        guidance=guidance,
        fps=geometry.fps,
    )


def random_adapter(dit: DiT, spec: LoraSpec) -> dict[str, Tensor]:
    """LoRA matrices that change every layer's output by about a tenth."""
    return {
        name: random_tensor(name, shape, seed=0, std=0.02 if name.endswith("lora_B") else shape[1] ** -0.5)
        for name, shape in adapter_shapes(dit, spec).items()
    }


@torch.no_grad()
def run_report(
    dit: DiT,
    adapters: Adapters,
    task: Task,
    schemes: Sequence[Scheme],
    *,
    compute: Compute = "auto",
    adaln: bool = False,
    repeats: int = 3,
) -> dict[str, Any]:
    """Measure the network as it is and in every scheme; the adapters stay loaded on it.

    A network in float32 is also compared with itself in bfloat16, as a yardstick.
    """
    for name, (tensors, spec) in adapters.items():
        add_adapter(dit, tensors, spec, name=name)
    strengths = dict.fromkeys(adapters, 1.0)
    outputs, seconds = _run(dit, task, strengths, repeats)
    base = {"name": str(dit.dtype).removeprefix("torch."), "bytes": base_bytes(dit), **seconds}
    rows = []
    variants: Sequence[Scheme | None] = (None, *schemes) if dit.dtype == torch.float32 else schemes
    for scheme in variants:
        network, backend = copy.deepcopy(dit), "-"
        if scheme is None:
            network.rope_table_dtype = network.dtype  # another table would be another network
            network.to(torch.bfloat16)
        else:
            backend = quantize_base(network, scheme, compute=compute, adaln=adaln).backend
        layers = layer_errors(dit, network, task, adaln=adaln)
        got, seconds = _run(network, task, strengths, repeats)
        errors = {key: compare(got[key], outputs[key]) for key in outputs}
        row = {"name": scheme or "bfloat16", "backend": backend, "bytes": base_bytes(network), **seconds, **errors}
        rows.append({**row, "layers": layers})
        del network
    stored = [_stored_adapters(dit, adapters, task, scheme, outputs["latents_lora"]) for scheme in schemes]
    activate(dit, {})
    return {"base": base, "schemes": rows, "stored_adapters": stored}


def layer_errors(dit: DiT, changed: DiT, task: Task, *, adaln: bool = False) -> dict[str, float]:
    """Relative L2 error of each large linear's output on the inputs that it has in the unchanged network."""
    theirs = dict(large_linears(changed, adaln=adaln))
    errors: dict[str, float] = {}

    def record(name: str, x: Tensor, expected: Tensor) -> None:
        errors[name] = compare(theirs[name](x.to(changed.dtype)), expected)["relative_l2"]

    handles = [
        linear.register_forward_hook(lambda _, args, output, name=name: record(name, args[0], output))
        for name, linear in large_linears(dit, adaln=adaln)
    ]
    activate(dit, {})
    try:
        task.forward(dit)
    finally:
        for handle in handles:
            handle.remove()
    return errors


def compare(got: Tensor, expected: Tensor) -> dict[str, float]:
    """Relative L2 error, and PSNR in dB with the range of the expected values as peak."""
    expected = expected.float()
    difference = (got.float() - expected).norm()
    peak = (expected.max() - expected.min()) * math.sqrt(expected.numel())
    return {
        "relative_l2": float(difference / expected.norm()),
        "psnr_db": float(20 * torch.log10(peak / difference)),
    }


def _run(dit: DiT, task: Task, strengths: dict[str, float], repeats: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Outputs of one forward and of sampling, and seconds per forward, without adapters and with them."""
    outputs: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for suffix, active in (("", {}), ("_lora", strengths)):
        activate(dit, active)
        seconds[f"seconds{suffix}"] = measure(lambda: task.forward(dit), dit.device, repeats=repeats)["seconds"]
        outputs[f"forward{suffix}"] = task.forward(dit)
        outputs[f"latents{suffix}"] = task.final_latents(dit)
    return outputs, seconds


def _stored_adapters(
    dit: DiT, adapters: Adapters, task: Task, scheme: Scheme, expected_latents: Tensor
) -> dict[str, Any]:
    """Size and error of the adapters stored in 8 bits, on the unquantized base."""
    errors: dict[str, float] = {}
    size = size_bf16 = 0
    names = {name: f"{name}-{scheme}" for name in adapters}
    for name, (tensors, spec) in adapters.items():
        stored = quantize_adapter(tensors, scheme)
        errors |= {f"{name}: {key}": error for key, error in stored.relative_errors.items()}
        size += sum(tensor.nbytes for tensor in stored.tensors.values())
        size_bf16 += sum(2 * tensor.numel() for tensor in tensors.values())
        add_adapter(dit, dequantize_adapter(stored.tensors), spec, name=names[name])
    activate(dit, dict.fromkeys(names.values(), 1.0))
    latents = task.final_latents(dit)
    for name in names.values():
        unload_adapter(dit, name)
    return {
        "name": scheme,
        "bytes": size,
        "bytes_bfloat16": size_bf16,
        "mean_error": statistics.fmean(errors.values()),
        "max_error": max(errors.values()),
        "latents_lora": compare(latents, expected_latents),
    }


def print_report(report: dict[str, Any]) -> None:
    """The tables, one below the other."""
    base = report["base"]
    print(f"\n{'base weights':12} {'multiplies with':16} {'MiB':>9} {'of base':>8} {'s/forward':>10} {'with LoRA':>10}")
    for row in (base, *report["schemes"]):
        size = f"{row['bytes'] / _MIB:9.1f} {row['bytes'] / base['bytes']:8.1%}"
        seconds = f"{row['seconds']:10.4f} {row['seconds_lora']:10.4f}"
        print(f"{row['name']:12} {row.get('backend', '-'):16} {size} {seconds}")
    print(f"\n{'layers':12} {'mean':>8} {'max':>8}  worst (relative L2 of the output)")
    for row in report["schemes"]:
        layers: dict[str, float] = row["layers"]
        worst = sorted(layers, key=lambda name: -layers[name])[:_NUM_WORST]
        shown = ", ".join(f"{name} {layers[name]:.2%}" for name in worst)
        print(f"{row['name']:12} {statistics.fmean(layers.values()):8.2%} {layers[worst[0]]:8.2%}  {shown}")
    print(f"\n{'error':12} {'forward':>9} {'+ LoRA':>9} {'latents':>9} {'PSNR dB':>8} {'+ LoRA':>9} {'PSNR dB':>8}")
    for row in report["schemes"]:
        latents, with_lora = row["latents"], row["latents_lora"]
        print(
            f"{row['name']:12} {row['forward']['relative_l2']:9.2%} {row['forward_lora']['relative_l2']:9.2%} "
            f"{latents['relative_l2']:9.2%} {latents['psnr_db']:8.1f} "
            f"{with_lora['relative_l2']:9.2%} {with_lora['psnr_db']:8.1f}"
        )
    print(f"\n{'adapters in':12} {'MiB':>9} {'of bf16':>8} {'mean':>8} {'max':>8} {'latents':>9} {'PSNR dB':>8}")
    for row in report["stored_adapters"]:
        latents = row["latents_lora"]
        print(
            f"{row['name']:12} {row['bytes'] / _MIB:9.2f} {row['bytes'] / row['bytes_bfloat16']:8.1%} "
            f"{row['mean_error']:8.2%} {row['max_error']:8.2%} {latents['relative_l2']:9.2%} {latents['psnr_db']:8.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parse(arguments)
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    model = MODELS[options.model]
    resolution, fps = options.resolution or model.resolutions[0], options.fps or model.fps[0]
    geometry = video_geometry(model=model.name, resolution=resolution, fps=fps, aspect_ratio="16:9")
    if options.checkpoint:
        dit = load_dit(options.checkpoint, model.dit, device=device, dtype=dtype)
    else:
        dit = build_dit(model.dit, device, dtype)
    adapters: dict[str, tuple[dict[str, Tensor], LoraSpec]] = {}
    for index, path in enumerate(options.adapter):
        stored = read_adapter(path)
        adapters[f"adapter{index}"] = (stored.tensors, stored.spec(alpha=options.alpha))
    if not adapters:
        adapters["random"] = (random_adapter(dit, LoraSpec()), LoraSpec())
    task = make_task(dit, geometry, num_steps=options.steps, guidance=options.guidance, seed=options.seed)
    report: dict[str, Any] = {
        "machine": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "variant": f"{model.name} {resolution}p {fps} fps, {geometry.num_tokens} tokens",
        "weights": str(options.checkpoint or "random"),
        "adapters": [str(path) for path in options.adapter] or ["random"],
        "steps": options.steps,
        "guidance": options.guidance,
    }
    print("\n".join(f"{key}: {value}" for key, value in report.items()))
    report |= run_report(
        dit,
        adapters,
        task,
        options.scheme,
        compute=options.compute,
        adaln=options.adaln,
        repeats=options.repeats,
    )
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization", description="Measure 8-bit weights next to the network as it is."
    )
    parser.add_argument("--model", choices=sorted(MODELS), default="micro")
    parser.add_argument("--resolution", help="default: the model's smallest")
    parser.add_argument("--fps", type=int, help="default: the model's smallest")
    parser.add_argument("--checkpoint", type=Path, help="base checkpoint; default: random weights")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="may be repeated; default: random")
    parser.add_argument("--alpha", type=float, help="of adapter files that do not say theirs")
    parser.add_argument("--steps", type=int, default=4, help="of the sampling run")
    parser.add_argument("--guidance", type=float, default=7.0, help="0 halves the cost of sampling")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling run's noise")
    parser.add_argument("--scheme", type=_schemes, default=("fp8", "int8"), help="default: fp8,int8")
    parser.add_argument("--compute", choices=get_args(Compute), default="auto")
    parser.add_argument("--adaln", action="store_true", help="quantize AdaLN as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 on CUDA, else float32")
    parser.add_argument("--repeats", type=int, default=3, help="forwards that are timed")
    parser.add_argument("--json", type=Path, help="also write everything here, with the error of every layer")
    return parser.parse_args(arguments)


def _schemes(text: str) -> tuple[str, ...]:
    schemes = tuple(part.strip() for part in text.split(","))
    unknown = set(schemes) - set(get_args(Scheme))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such scheme: {', '.join(sorted(unknown))}")
    return schemes


if __name__ == "__main__":
    raise SystemExit(main())
