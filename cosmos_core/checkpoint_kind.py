"""What a state dict is, read off the names and shapes of its tensors.

Source of the names: reference-written checkpoints (training and published) and diffusers' own layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from torch import Tensor

from cosmos_core.architecture import MODELS

__all__ = ["CheckpointFacts", "CheckpointKind", "NetworkFacts", "checkpoint_facts", "drop_benign", "network_prefixes"]

_BENIGN = re.compile(
    r"(^|\.)(_extra_state|accum_video_sample_counter|accum_image_sample_counter|accum_iteration|accum_train_in_hours"
    r"|pos_embedder\.(seq|dim_spatial_range|dim_temporal_range))$"
)
_PREFIXES = ("net.", "net_ema.")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
_LORA_A = re.compile(r"(?:^|\.)blocks\.\d+\.(?P<target>.+)\.lora_A(?:\.[^.]+)?\.weight$")
_V = TypeVar("_V")


class CheckpointKind(StrEnum):
    """Families of checkpoint files."""

    BASE = "base transformer"
    LORA_TRAINING = "LoRA training checkpoint"
    LORA_ADAPTER = "LoRA adapter alone"
    VAE = "video VAE"
    TEXT_ENCODER = "T5 text encoder"
    DIFFUSERS = "diffusers transformer"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """One network of a file: all tensors under one prefix."""

    num_tensors: int
    num_parameters: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """What a state dict holds."""

    kind: CheckpointKind
    networks: dict[str, NetworkFacts]
    """By prefix, the empty string for names without one; tensors that nothing needs are not counted."""
    size: str | None = None
    """Name of the model size whose width and depth the transformer has; "other" if there is none."""
    model_channels: int | None = None
    num_blocks: int | None = None
    lora_ranks: tuple[int, ...] = ()
    lora_targets: tuple[str, ...] = ()


def drop_benign(state_dict: Mapping[str, _V]) -> dict[str, _V]:
    """Without the entries that a network does not need: training counters, rotary buffers, norms' extra state."""
    return {key: value for key, value in state_dict.items() if not _BENIGN.search(key)}


def network_prefixes(state_dict: Mapping[str, object]) -> tuple[str, ...]:
    """Which of `net.`, `net_ema.` and the empty prefix occur."""
    found = {next((prefix for prefix in _PREFIXES if key.startswith(prefix)), "") for key in state_dict}
    return tuple(sorted(found))


def checkpoint_facts(state_dict: Mapping[str, Tensor]) -> CheckpointFacts:
    """Kind, size and content of a state dict; reads no values."""
    tensors = drop_benign(state_dict)
    depths = [int(match[1]) for key in tensors if (match := _BLOCK.search(key))]
    width = next((value.shape[0] for key, value in tensors.items() if key.endswith("x_embedder.proj.1.weight")), None)
    ranks = {value.shape[0] for key, value in tensors.items() if _LORA_A.search(key)}
    kind = _kind(tensors)
    is_transformer = kind in (CheckpointKind.BASE, CheckpointKind.LORA_TRAINING)
    num_blocks = max(depths, default=-1) + 1 if is_transformer else None
    return CheckpointFacts(
        kind=kind,
        networks={prefix: _network_facts(tensors, prefix) for prefix in network_prefixes(tensors)},
        size=_size(width, num_blocks) if is_transformer else None,
        model_channels=width if is_transformer else None,
        num_blocks=num_blocks,
        lora_ranks=tuple(sorted(ranks)),
        lora_targets=tuple(sorted({match["target"] for key in tensors if (match := _LORA_A.search(key))})),
    )


def _kind(tensors: Mapping[str, Tensor]) -> CheckpointKind:
    names = tuple(tensors)

    def any_has(part: str) -> bool:
        return any(part in name for name in names)

    if names and all("lora_" in name for name in names):
        return CheckpointKind.LORA_ADAPTER
    if any_has("transformer_blocks."):
        return CheckpointKind.DIFFUSERS
    if any_has("x_embedder.proj.1.weight") and any_has("blocks.0."):
        return CheckpointKind.LORA_TRAINING if any_has(".lora_A.") else CheckpointKind.BASE
    if any_has("encoder.conv1.weight") and any_has("decoder.conv1.weight"):
        return CheckpointKind.VAE
    if any_has("layer.0.SelfAttention.relative_attention_bias"):
        return CheckpointKind.TEXT_ENCODER
    return CheckpointKind.UNKNOWN


def _size(width: int | None, num_blocks: int | None) -> str:
    sizes = {(model.dit.model_channels, model.dit.num_blocks): name for name, model in MODELS.items()}
    return sizes.get((width or 0, num_blocks or 0), "other")


def _network_facts(tensors: Mapping[str, Tensor], prefix: str) -> NetworkFacts:
    values = [value for key, value in tensors.items() if network_prefixes({key: value}) == (prefix,)]
    return NetworkFacts(
        num_tensors=len(values),
        num_parameters=sum(value.numel() for value in values),
        dtypes=tuple(sorted({str(value.dtype).removeprefix("torch.") for value in values})),
    )
