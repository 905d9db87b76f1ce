"""How long a GPU works on one scenario, as far as anybody has measured it.

Ours are the figures of benchmarks/results, taken on an H200. On another GPU the time is ours, times the ratio of what
NVIDIA publishes for the reference implementation on that GPU and on the H200 (its docs/performance.md). Everything that
was not measured in just this form is scaled, by forwards and their operations, and marked; what nobody has measured is
unknown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from cosmos_core.architecture import model_architecture
from cosmos_core.geometry import VideoGeometry, video_geometry
from cosmos_core.group_layout import group_layout
from cosmos_core.model_size import forward_flops, num_forwards

__all__ = ["Duration", "DurationBasis", "Work", "duration", "group_speed", "in_group"]

Variant = tuple[str, str, int]
"""Model, resolution, frames per second; at 16:9."""


class DurationBasis(StrEnum):
    """How a figure came about."""

    MEASURED = "measured"
    """In just this form, with this implementation."""
    SCALED = "scaled"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one scenario asks of a GPU."""

    model: str
    resolution: str
    geometry: VideoGeometry
    num_steps: int = 35
    guided: bool = True
    num_chunks: int = 1
    quantize: Literal["none", "fp8", "int8"] = "none"
    num_unmerged_adapters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """Seconds of one scenario on one GPU, or on one group of GPUs."""

    seconds: float | None
    """From reading the frame to the written frames; None if unknown."""
    beside_s: float = 0.0
    """The part of it that is not forwards of the transformer, and that a group does not share."""
    basis: DurationBasis
    source: str


_FORWARD_S: dict[Variant, float] = {
    ("2B", "480", 10): 0.3657,
    ("2B", "480", 16): 0.6643,
    ("2B", "720", 10): 1.7274,
    ("2B", "720", 16): 3.4581,
    ("14B", "720", 16): 13.1673,
}
"""One forward on an H200: benchmarks/results/h200-forward.json."""
_FULL_RUN: Variant = ("2B", "720", 16)
_FULL_RUN_S = 0.07 + 253.50 + 5.76
"""Prepare, generate and write of one video on an H200: benchmarks/results/h200-full-run.json."""
_MEASURED_ON = "H200"
_QUANTIZED = {"none": 1.0, "fp8": 1.17, "int8": 1.68}
"""A forward on an H200 with 8-bit weights, 2B 480p: benchmarks/results/h200-quantization.json."""
_UNMERGED = 0.1
"""More time for each adapter that is not merged; 9 % for one, 30 % for three: benchmarks/results/h200-adapters.json."""
_GROUP_EFFICIENCY = 0.9
"""Assumed: share of the GPUs' time in a group that is not lost to exchanging tensors and waiting."""

_PUBLISHED_S: dict[str, dict[Variant, float]] = {
    "H200": {
        ("2B", "480", 16): 50.2,
        ("2B", "720", 10): 111.1,
        ("2B", "720", 16): 221.7,
        ("14B", "480", 16): 176.19,
        ("14B", "720", 10): 436.7,
        ("14B", "720", 16): 836.9,
    },
    "H100": {
        ("2B", "720", 10): 115.1,
        ("2B", "720", 16): 228.8,
        ("14B", "720", 10): 447.9,
        ("14B", "720", 16): 856.9,
    },
    "B200": {("2B", "720", 10): 62.4, ("2B", "720", 16): 123.9, ("14B", "720", 16): 439.4},
    "RTX PRO 6000": {("2B", "480", 16): 82.4},
    "L40S": {("2B", "480", 16): 127.5},
}
"""Seconds a video of the reference implementation, SXM boards of the data-centre cards."""

_CPU_S = 42.9
_CPU_VARIANT: Variant = ("tiny", "112", 10)
"""One video of 35 guided steps on two cores: benchmarks/results/cpu-tiny.json."""

UNKNOWN = Duration(seconds=None, basis=DurationBasis.UNKNOWN, source="nobody has measured it")


def duration(work: Work, kind: str | None) -> Duration:
    """Seconds of one scenario on a kind of GPU (`tasks.gpus.Gpu.kind`), or on the CPU (None)."""
    if kind is None:
        return _on_cpu(work)
    ours = _on_h200(work)
    if kind == _MEASURED_ON or ours.seconds is None:
        return ours
    ratio = _published_ratio(kind, (work.model, work.resolution, work.geometry.fps))
    if ratio is None:
        return UNKNOWN
    theirs, reference = ratio
    factor = theirs / reference
    return Duration(
        seconds=ours.seconds * factor,
        beside_s=ours.beside_s * factor,
        basis=DurationBasis.SCALED,
        source=f"ours on an H200, times NVIDIA's {theirs:g} s ({kind}) / {reference:g} s (H200)",
    )


def group_speed(model: str, size: int, *, guided: bool) -> float:
    """How many times as fast a group of that size is as one GPU, if nothing but heads that do not divide is lost."""
    dit = model_architecture(model).dit
    layout = group_layout(dit, size, guided=guided)
    return layout.cfg * dit.num_heads / math.ceil(dit.num_heads / layout.ulysses)


def in_group(one: Duration, work: Work, size: int) -> Duration:
    """How long the scenario takes on a group of that many GPUs, which share its forwards."""
    if one.seconds is None or size == 1:
        return one
    speed = group_speed(work.model, size, guided=work.guided) * _GROUP_EFFICIENCY
    source = f"{one.source}; {size} GPUs, {_GROUP_EFFICIENCY:.0%} efficiency assumed"
    seconds = one.beside_s + (one.seconds - one.beside_s) / speed
    return replace(one, seconds=seconds, basis=DurationBasis.SCALED, source=source)


def _on_h200(work: Work) -> Duration:
    variant = (work.model, work.resolution, work.geometry.fps)
    # The nearest measured forward: this variant's, or the largest of the same model.
    same_model = [known for known in _FORWARD_S if known[0] == work.model]
    if not same_model:
        return UNKNOWN
    known = variant if variant in _FORWARD_S else max(same_model, key=lambda known: _FORWARD_S[known])
    slower = _QUANTIZED[work.quantize] * (1 + _UNMERGED * work.num_unmerged_adapters)
    forward_s = _FORWARD_S[known] * _relative_flops(work, known) * slower
    beside_s = work.num_chunks * _beside_s(work.geometry)
    seconds = _num_forwards(work) * forward_s + beside_s
    if work == _plain(_FULL_RUN):
        return Duration(
            seconds=seconds,
            beside_s=beside_s,
            basis=DurationBasis.MEASURED,
            source="measured on an H200 (benchmarks/results/h200-full-run.json)",
        )
    return Duration(
        seconds=seconds,
        beside_s=beside_s,
        basis=DurationBasis.SCALED,
        source=f"{_num_forwards(work)} forwards, measured on an H200 at {_name(known)} "
        "(benchmarks/results/h200-forward.json)",
    )


def _on_cpu(work: Work) -> Duration:
    known = _plain(_CPU_VARIANT)
    share = _num_forwards(work) / _num_forwards(known) * _relative_flops(work, _CPU_VARIANT)
    return Duration(
        seconds=share * _CPU_S,
        basis=DurationBasis.MEASURED if work == known else DurationBasis.SCALED,
        source=f"{_CPU_S} s for {_name(_CPU_VARIANT)} on two CPU cores (benchmarks/results/cpu-tiny.json)",
    )


def _published_ratio(kind: str, variant: Variant) -> tuple[float, float] | None:
    """Published seconds on that kind of GPU and on the H200: of the variant, else of its model, else of another."""
    both = set(_PUBLISHED_S.get(kind, {})) & set(_PUBLISHED_S[_MEASURED_ON])
    nearest = max(both, key=lambda known: (known == variant, known[0] == variant[0], known), default=None)
    if nearest is None:
        return None
    return _PUBLISHED_S[kind][nearest], _PUBLISHED_S[_MEASURED_ON][nearest]


def _beside_s(geometry: VideoGeometry) -> float:
    """Encoding, decoding and writing on an H200: what the measured run took beside its forwards, by pixels."""
    measured = _plain(_FULL_RUN)
    beside = _FULL_RUN_S - _num_forwards(measured) * _FORWARD_S[_FULL_RUN]
    return beside * _num_pixels(geometry) / _num_pixels(measured.geometry)


def _num_pixels(geometry: VideoGeometry) -> int:
    return geometry.width * geometry.height * geometry.num_frames


def _num_forwards(work: Work) -> int:
    return num_forwards(num_steps=work.num_steps, guided=work.guided, num_chunks=work.num_chunks)


def _relative_flops(work: Work, known: Variant) -> float:
    """Operations of a forward, against one of a known variant."""
    mine = forward_flops(model_architecture(work.model).dit, work.geometry)
    return mine / forward_flops(model_architecture(known[0]).dit, _plain(known).geometry)


def _plain(variant: Variant) -> Work:
    model, resolution, fps = variant
    geometry = video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio="16:9")
    return Work(model=model, resolution=resolution, geometry=geometry)


def _name(variant: Variant) -> str:
    return f"{variant[0]} {variant[1]}p {variant[2]} fps"
