"""Reading a folder of golden vectors, and the record of one comparison.

A folder holds inputs and outputs of a reference implementation: `.safetensors` files whose tensor names start with
`in.` (give this to the implementation), `mid.` or `tap.` (an intermediate value) or `out.` (compare with this), and
JSON files with the arguments of each run. Everything is found by folder, tensor name and JSON, nothing by the name of
a case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.checkpoint import drop_benign, fill_dit
from cosmos_core.dit import DiT

__all__ = ["Case", "build_dit", "load_json", "load_tensors", "relative_l2", "run_dit"]


@dataclass(frozen=True, slots=True)
class Case:
    """One comparison, not yet made."""

    group: str
    name: str
    limit: float
    """Largest deviation that is accepted."""
    measure: Callable[[], float]
    """Runs the implementation and gives its deviation: a relative L2 distance, or a number of differences."""


@lru_cache(maxsize=64)
def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, or of a plain `torch.save` file."""
    if path.suffix == ".safetensors":
        return load_file(path)
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return tensors


def load_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def relative_l2(got: Tensor, golden: Tensor) -> float:
    """norm(difference) / norm(golden), in float64."""
    if got.shape != golden.shape:
        raise ValueError(f"shape {tuple(got.shape)} where the golden tensor has {tuple(golden.shape)}")
    return float((got.double() - golden.double()).norm() / golden.double().norm())


def build_dit(
    architecture: DiTArchitecture,
    state_dict: Mapping[str, Tensor],
    dtype: torch.dtype,
    *,
    rope_table_dtype: torch.dtype | None = None,
) -> DiT:
    """A network with these weights; names are those of the reference, without prefix."""
    dit = fill_dit(drop_benign(state_dict), architecture, dtype=dtype, source="the golden state dict")
    dit.rope_table_dtype = rope_table_dtype
    return dit


def run_dit(dit: DiT, tensors: Mapping[str, Tensor]) -> Tensor:
    """One forward from the `in.` tensors of a case."""
    return dit(
        tensors["in.x"],
        tensors["in.timesteps"],
        tensors["in.crossattn_emb"],
        condition_mask_B1THW=tensors["in.condition_video_input_mask"],
        padding_mask_B1HW=tensors["in.padding_mask"],
        fps_B=tensors["in.fps"],
    )
