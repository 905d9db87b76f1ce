"""Several processes that compute one forward, next to one that computes it alone: agreement, seconds, memory.

    torchrun --standalone --nproc-per-node 2 -m benchmarks.context_parallel --model 2B --json out.json
    torchrun --standalone --nproc-per-node 3 -m benchmarks.context_parallel --model micro --device cpu

Random weights, equal on all processes; no file is read. Two things are measured for each variant: one forward whose
tokens all processes share (a video without guidance), and one guided evaluation (two forwards) in the layout that the
worker would choose. First every process does it alone, all at once, then together. A time is that of the slowest
process, the median over the repeats, from a common start. Efficiency is alone / (processes * together).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden_set import relative_l2
from benchmarks.variants import build_dit, inputs
from cosmos_core.architecture import MODELS, model_architecture
from cosmos_core.conditioning import guided_denoiser, in_turn
from cosmos_core.context_parallel import ContextParallel
from cosmos_core.dit import DiT
from cosmos_core.errors import CrossroadsError
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.group_layout import check_group_size, even_split, group_layout
from cosmos_core.rank_agreement import Ranks

__all__ = ["main"]

_SIGMA = 1.0
_GUIDANCE = 7.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of every process; rank 0 prints one JSON object."""
    arguments = _parse(argv)
    device = torch.device(arguments.device)
    with Ranks(lambda error: print(f"ended: {error}", file=sys.stderr)) as ranks:
        try:
            check_group_size(model_architecture(arguments.model).dit, ranks.world_size)
        except CrossroadsError as error:
            if ranks.is_first:
                print(error, file=sys.stderr)
            return 1
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(device)
        report = run(arguments, ranks, device)
        if ranks.is_first:
            text = json.dumps(report, indent=2)
            print(text)
            if arguments.json:
                arguments.json.write_text(text + "\n")
    return 0


@torch.no_grad()
def run(arguments: argparse.Namespace, ranks: Ranks, device: torch.device) -> dict[str, Any]:
    """All measurements; the same on every rank but for the memory, which is this rank's."""
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    architecture = model_architecture(arguments.model)
    dit = build_dit(architecture.dit, device, dtype)
    context = ContextParallel(ranks, architecture.dit, device) if ranks.world_size > 1 else None
    if context is not None:
        for parameter in dit.parameters():
            context.share(parameter.data)
    variants = [
        _variant(arguments, dit, context, ranks, device, dtype, resolution)
        for resolution in arguments.resolutions or architecture.resolutions
    ]
    return {
        "machine": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "weights": "random",
        "model": arguments.model,
        "dtype": str(dtype),
        "processes": ranks.world_size,
        "repeats": arguments.repeats,
        "variants": variants,
    }


def _variant(
    arguments: argparse.Namespace,
    dit: DiT,
    context: ContextParallel | None,
    ranks: Ranks,
    device: torch.device,
    dtype: torch.dtype,
    resolution: str,
) -> dict[str, Any]:
    fps = arguments.fps or model_architecture(arguments.model).fps[-1]
    geometry = video_geometry(model=arguments.model, resolution=resolution, fps=fps, aspect_ratio="16:9")
    given = inputs(dit.architecture, geometry, device, dtype)
    if context is not None:
        for tensor in given.values():
            context.share(tensor)
    timed = partial(_timed, ranks=ranks, device=device, repeats=arguments.repeats)
    return {
        "variant": f"{arguments.model} {resolution}p {fps} fps",
        "tokens": geometry.num_tokens,
        "forward": _compare(
            timed,
            alone=lambda: _forward(dit, given, None),
            together=lambda: _forward(dit, given, context and context.token_group(guided=False)),
            **_layout(dit, geometry, ranks, guided=False),
        ),
        "guided": _compare(
            timed,
            alone=lambda: _guided(dit, given, geometry, None),
            together=lambda: _guided(dit, given, geometry, context),
            **_layout(dit, geometry, ranks, guided=True),
        ),
    }


def _compare(
    timed: Callable[[Callable[[], Tensor]], tuple[Tensor, float, float | None]],
    *,
    alone: Callable[[], Tensor],
    together: Callable[[], Tensor],
    processes: int,
    **facts: Any,
) -> dict[str, Any]:
    single, alone_s, alone_gib = timed(alone)
    shared, together_s, together_gib = timed(together)
    return {
        **facts,
        "alone_s": alone_s,
        "together_s": together_s,
        "speedup": alone_s / together_s,
        "efficiency": alone_s / (processes * together_s),
        "relative_l2": relative_l2(shared, single),
        "max_difference": float((shared.float() - single.float()).abs().max()),
        "alone_peak_gib": alone_gib,
        "together_peak_gib": together_gib,
    }


def _layout(dit: DiT, geometry: VideoGeometry, ranks: Ranks, *, guided: bool) -> dict[str, Any]:
    layout = group_layout(dit.architecture, ranks.world_size, guided=guided)
    return {
        "processes": ranks.world_size,
        "layout": str(layout),
        "tokens_of_a_process": even_split(geometry.num_tokens, layout.ulysses)[0],
        "heads_of_a_process": even_split(dit.architecture.num_heads, layout.ulysses)[0],
    }


def _forward(dit: DiT, given: dict[str, Tensor], group: Any) -> Tensor:
    return dit(given["x"], given["timesteps"], given["text"], condition_mask_B1THW=given["mask"], group=group)


def _guided(dit: DiT, given: dict[str, Tensor], geometry: VideoGeometry, context: ContextParallel | None) -> Tensor:
    x0_fn = guided_denoiser(
        partial(dit, group=None if context is None else context.token_group(guided=True)),
        clean_BCKHW=given["x"][:, :, :1].float(),
        prompt_BND=given["text"],
        negative_BND=given["text"].flip(1),
        guidance=_GUIDANCE,
        fps_B=torch.tensor([geometry.fps]),
        both_branches=in_turn if context is None else context.both_branches,
    )
    return x0_fn(given["x"].float(), torch.full((1,), _SIGMA, device=dit.device))


def _timed(
    call: Callable[[], Tensor], *, ranks: Ranks, device: torch.device, repeats: int
) -> tuple[Tensor, float, float | None]:
    """The result, the seconds of the slowest rank (median of the repeats, after a warm-up), the peak of memory."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    result = call()
    seconds = []
    for _ in range(repeats):
        _synchronize(device)
        ranks.wait()
        started = time.perf_counter()
        result = call()
        _synchronize(device)
        seconds.append(max(ranks.gather(time.perf_counter() - started)))
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return result, statistics.median(seconds), peak


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure context parallelism; start it with torchrun.")
    parser.add_argument("--model", choices=sorted(MODELS), default="2B", help="tiny or micro run on any CPU")
    parser.add_argument("--resolutions", nargs="*", help="default: all that the model has")
    parser.add_argument("--fps", type=int, help="default: the model's largest")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="default: bfloat16 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
