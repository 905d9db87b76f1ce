"""What an adapter's file says about where it comes from, next to the base that it is put on.

An adapter fits the base that it was trained on. On another one it still loads and runs, so the difference is measured
where the file allows it, written into the record and logged; using an adapter on a sibling of its base is legitimate.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cosmos_core.adapter_file import StoredAdapter
from cosmos_core.adapter_set import AdapterSet

__all__ = ["adapter_origin", "base_distance"]

logger = logging.getLogger(__name__)

_SAME_BASE = 4e-3
"""Relative distance up to which bases are the same: rounding to bfloat16 makes 1.7e-3."""


def adapter_origin(
    stored: StoredAdapter, adapters: AdapterSet, *, name: str, checkpoint_sha256: str | None = None
) -> dict[str, Any]:
    """A JSON-ready description: layout, manifest, and whether the base is the one that it was trained on.

    Args:
        stored: the adapter.
        adapters: the set that it was put into, with no adapter in use.
        name: of the adapter, for the log.
        checkpoint_sha256: of the base checkpoint's file, if it is known.
    """
    manifest = stored.manifest
    origin: dict[str, Any] = {
        "kind": str(stored.kind),
        "manifest": manifest.model_dump(exclude_none=True) if manifest else None,
        "same_base": None,
    }
    distance = base_distance(adapters, stored.base_weights, stored.modules) if stored.base_weights else None
    if distance is not None:
        origin["base_distance"] = distance
        origin["same_base"] = distance <= _SAME_BASE
    elif manifest and manifest.base_sha256_of == "file" and checkpoint_sha256:
        origin["same_base"] = manifest.base_sha256 == checkpoint_sha256
    if origin["same_base"] is False:
        logger.warning("adapter %s was trained on another base than the one that it is used on", name)
    return origin


@torch.no_grad()
def base_distance(adapters: AdapterSet, weights: Mapping[str, Tensor], modules: tuple[str, ...]) -> float | None:
    """Relative L2 distance between base weights in a training checkpoint and the network's, over these modules.

    None if the network's are quantised. The modules must be the network's, of its shapes.
    """
    device = adapters.dit.device
    distance = torch.zeros((), dtype=torch.float64, device=device)
    norm = torch.zeros((), dtype=torch.float64, device=device)
    for module in modules:
        ours = adapters.base_weight(module)
        if ours is None:
            return None
        distance += (ours.float() - weights[module].to(device).float()).square().sum().double()
        norm += ours.float().square().sum().double()
    return float((distance / norm.clamp_min(torch.finfo(torch.float64).tiny)).sqrt())
