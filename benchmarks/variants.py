"""Parameters, tokens, FLOPs, peak memory and seconds per forward of each variant on this machine.

    python -m benchmarks.variants --model 2B --resolution 720 --fps 16 --json out.json
    python -m benchmarks.variants --model 2B --next-to-diffusers

Random weights, no file is read. Memory is that of the transformer and one forward (text embeddings precomputed).
`--next-to-diffusers` runs stock diffusers' CosmosTransformer3DModel of the same size on the same inputs in that run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_core.architecture import MODELS, DiTArchitecture
from cosmos_core.dit import DiT
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.model_size import forward_flops

_TEXT_TOKENS = 512


def build_dit(architecture: DiTArchitecture, device: torch.device, dtype: torch.dtype) -> DiT:
    """The transformer with random weights."""
    with torch.device("meta"):
        dit = DiT(architecture)
    dit = dit.to_empty(device=device).to(dtype)
    return _randomise(dit)  # type: ignore[return-value]


def build_diffusers(architecture: DiTArchitecture, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """Stock diffusers at the same size."""
    from diffusers import CosmosTransformer3DModel

    with torch.device("meta"):
        model = CosmosTransformer3DModel(
            in_channels=architecture.in_channels + 1,
            out_channels=architecture.out_channels,
            num_attention_heads=architecture.num_heads,
            attention_head_dim=architecture.head_dim,
            num_layers=architecture.num_blocks,
            mlp_ratio=architecture.mlp_ratio,
            text_embed_dim=architecture.crossattn_emb_channels,
            adaln_lora_dim=architecture.adaln_lora_dim,
            max_size=(architecture.max_frames, architecture.max_img_h, architecture.max_img_w),
            patch_size=(1, 2, 2),
            rope_scale=(1.0, 3.0, 3.0),
            concat_padding_mask=True,
            extra_pos_embed_type=None,
        )
    return _randomise(model.to_empty(device=device).to(dtype))


def _randomise(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator(next(model.parameters()).device).manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5 * parameter.shape[-1] ** -0.5, generator=generator)
        else:
            torch.nn.init.ones_(parameter)
    return model.requires_grad_(False).eval()


def inputs(
    architecture: DiTArchitecture, geometry: VideoGeometry, device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Random inputs of one forward, one conditioning frame."""
    generator = torch.Generator(device).manual_seed(1)
    t, h, w = geometry.num_latent_frames, geometry.latent_height, geometry.latent_width
    shape = (1, architecture.in_channels, t, h, w)
    mask = torch.zeros(1, 1, t, h, w, device=device, dtype=dtype)
    mask[:, :, 0] = 1
    return {
        "x": torch.randn(shape, device=device, generator=generator).to(dtype),
        "timesteps": torch.full((1, t), 0.5, device=device, dtype=dtype),
        "text": torch.randn(
            1, _TEXT_TOKENS, architecture.crossattn_emb_channels, device=device, generator=generator
        ).to(dtype),
        "mask": mask,
        "padding": torch.zeros(1, 1, 8 * h, 8 * w, device=device, dtype=dtype),
    }


def measure(call: Callable[[], Any], device: torch.device, *, repeats: int) -> dict[str, float]:
    """Median seconds of a call after one warm-up, and the peak of device memory in GiB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    call()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return {"seconds": statistics.median(seconds), "peak_gib": peak}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def run_variant(
    model: str, resolution: str, fps: int, *, device: torch.device, dtype: torch.dtype, repeats: int, diffusers: bool
) -> list[dict[str, Any]]:
    """One row for ours and, if asked for, one for diffusers."""
    architecture = MODELS[model].dit
    geometry = video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio="16:9")
    given = inputs(architecture, geometry, device, dtype)
    flops = forward_flops(architecture, geometry)
    rows = []
    builders: dict[str, Callable[[], torch.nn.Module]] = {"crossroads": lambda: build_dit(architecture, device, dtype)}
    if diffusers:
        builders["diffusers"] = lambda: build_diffusers(architecture, device, dtype)
    for name, build in builders.items():
        network = build()
        call = _ours(network, given) if name == "crossroads" else _theirs(network, given, fps)
        result = measure(call, device, repeats=repeats)
        rows.append(
            {
                "implementation": name,
                "variant": f"{model} {resolution}p {fps} fps",
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "tokens": geometry.num_tokens,
                "tflop_per_forward": flops / 1e12,
                "tflop_per_s": flops / 1e12 / result["seconds"],
                **result,
            }
        )
        del network, call
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return rows


def _ours(network: torch.nn.Module, given: dict[str, Tensor]) -> Callable[[], Tensor]:
    return lambda: network(given["x"], given["timesteps"], given["text"], condition_mask_B1THW=given["mask"])


def _theirs(network: torch.nn.Module, given: dict[str, Tensor], fps: int) -> Callable[[], Tensor]:
    return lambda: network(
        hidden_states=given["x"],
        timestep=given["timesteps"][:, None, :, None, None],
        encoder_hidden_states=given["text"],
        fps=fps,
        condition_mask=given["mask"],
        padding_mask=given["padding"],
        return_dict=False,
    )[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one forward of each variant on this machine.")
    parser.add_argument("--model", choices=sorted(MODELS), default="2B")
    parser.add_argument("--resolution", help="default: all that the model has")
    parser.add_argument("--fps", type=int, help="default: all that the model has")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--next-to-diffusers", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    architecture = MODELS[arguments.model]
    machine = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, {dtype}")
    rows: list[dict[str, Any]] = []
    for resolution in [arguments.resolution] if arguments.resolution else architecture.resolutions:
        for fps in [arguments.fps] if arguments.fps else architecture.fps:
            rows += run_variant(
                arguments.model,
                resolution,
                fps,
                device=device,
                dtype=dtype,
                repeats=arguments.repeats,
                diffusers=arguments.next_to_diffusers,
            )
    for row in rows:
        print(
            f"{row['variant']:20} {row['implementation']:10} {row['parameters']:>14,} parameters "
            f"{row['tokens']:>7,} tokens "
            f"{row['tflop_per_forward']:8.1f} TFLOP {row['seconds']:8.3f} s {row['tflop_per_s']:7.1f} TFLOP/s "
            f"{row['peak_gib']:6.2f} GiB peak"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
