"""Models that share GPUs with the generating workers: guard models all the time, the refiner before them.

Their size is that of their files; what they need beyond weights is assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cosmos_core.memory_mode import Saving
from cosmos_core.memory_model import GIB
from tasks.config import RunConfig
from tasks.guard_config import ContentGuard, ModelGuard
from tasks.refiner_config import TransformersRefinerConfig

__all__ = ["SideModel", "side_models"]

_BEYOND_WEIGHTS = 2 * GIB
"""Assumed for a process of its own: CUDA context, activations, libraries."""
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
"""In the order of preference; a folder may hold the same weights twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideModel:
    """One model beside the workers."""

    name: str
    saving: Saving
    """What takes it off the GPU: `guardrail` or `refiner`."""
    gpu: int
    """Which of the visible GPUs it is on."""
    num_bytes: int | None
    """On the GPU; None where its files are not there."""


def side_models(config: RunConfig) -> tuple[SideModel, ...]:
    """The models that a run puts onto GPUs besides its workers'."""
    found: list[SideModel] = []
    guards = config.guards
    for check, guard in guards.text.items():
        if isinstance(guard, ModelGuard):
            found += _on_gpu(check, "guardrail", guard.device, guard.folder)
    if isinstance(guards.content, ContentGuard):
        found += _on_gpu("content guard", "guardrail", guards.content.device, guards.content.encoder_folder())
    if guards.faces is not None:
        found += _on_gpu("face guard", "guardrail", guards.faces.device, guards.faces.weights)
    if isinstance(config.refiner, TransformersRefinerConfig):
        device = "cuda" if config.refiner.device == "auto" else config.refiner.device
        found += _on_gpu("prompt refiner", "refiner", device, config.refiner.path)
    return tuple(found)


def _on_gpu(name: str, saving: Saving, device: str, files: Path) -> list[SideModel]:
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        return []
    weights = _weight_bytes(files)
    num_bytes = weights + _BEYOND_WEIGHTS if weights is not None else None
    return [SideModel(name=name, saving=saving, gpu=int(match[1] or 0), num_bytes=num_bytes)]


def _weight_bytes(files: Path) -> int | None:
    if files.is_file():
        return files.stat().st_size
    for pattern in _WEIGHTS:
        if found := list(files.glob(pattern)):
            return sum(path.stat().st_size for path in found)
    return None
