"""Weights with adapters merged in, and the way back to the base bit for bit.

    W' = W + sum_i strength_i * alpha_i / rank_i * B_i A_i = W + [f_1 B_1 | f_2 B_2 | ...] [A_1 ; A_2 ; ...]

The sum over adapters is one product over their concatenated ranks, whatever those are; a layer takes part with the
adapters that have it. Product and sum are made in float64 (devices that round float32 factors to fewer bits do not do
so here) and are rounded once, to the dtype of the weights. Every combination is computed from the kept base, never from
another combination, so equal strengths give equal bits whatever came before, and the base is copied back, not
subtracted. Weights are written in place: their addresses stay, for captured graphs as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from cosmos_core.errors import AdapterMismatch

__all__ = ["KeepBase", "MergedWeights", "Update", "concatenated_ranks", "merged_weight", "update_norms"]

KeepBase = Literal["device", "host"]
"""Where the base of the adapted layers is kept: next to the network, or in the memory of the host (pinned)."""


class Update(NamedTuple):
    """factor * B A: what one adapter adds to one layer."""

    factor: float
    A: Tensor
    """[rank, in]"""
    B: Tensor
    """[out, rank]"""


def concatenated_ranks(updates: Sequence[Update]) -> tuple[Tensor, Tensor]:
    """A [R, in] and B [out, R] with B A = sum of factor * B_i A_i, R the sum of the ranks; float64."""
    A = torch.cat([update.A.double() for update in updates], dim=0)
    B = torch.cat([update.B.double() * update.factor for update in updates], dim=1)
    return A, B


def merged_weight(base: Tensor, updates: Sequence[Update]) -> Tensor:
    """Base [out, in] plus the updates, float64; the caller rounds."""
    A, B = concatenated_ranks(updates)
    return torch.addmm(base.double(), B, A)


@torch.no_grad()
def update_norms(updates: Iterable[tuple[str, float, Tensor, Tensor]]) -> dict[str, float]:
    """Frobenius norm of scale * B A for every (module, scale, A [rank, in], B [out, rank]).

    ||BA||^2 = trace((B^T B)(A A^T)): only matrices of rank x rank are formed, in float64.
    """
    modules, squares = [], []
    for module, scale, A, B in updates:
        A, B = A.double(), B.double()
        modules.append(module)
        squares.append(scale**2 * ((B.T @ B) * (A @ A.T)).sum())
    norms = torch.stack(squares).clamp_min(0).sqrt().tolist()
    return dict(zip(modules, norms, strict=True))


class MergedWeights:
    """The linear layers of a network, which of them are changed, and their base.

    Args:
        linears: layers by name.
        keep: where base weights go.
    """

    def __init__(self, linears: Mapping[str, nn.Linear], *, keep: KeepBase = "device") -> None:
        self._linears = linears
        self._keep = keep
        self._base: dict[str, Tensor] = {}
        self._changed: dict[str, object] = {}
        """What is merged into a layer; layers that hold their base are not in it."""

    @property
    def num_base_bytes(self) -> int:
        """Memory that the kept base takes."""
        return sum(weight.numel() * weight.element_size() for weight in self._base.values())

    @torch.no_grad()
    def keep(self, names: Sequence[str]) -> None:
        """Keep the base of these layers, before anything is merged into them.

        Raises:
            AdapterMismatch: a layer's weights are not numbers that an update can be added to.
        """
        for name in names:
            if name in self._base:
                continue
            linear = self._linears[name]
            weight = linear.weight
            if type(linear) is not nn.Linear or not weight.is_floating_point() or weight.element_size() < 2:
                raise AdapterMismatch(
                    f"an adapter cannot be merged into the weights of {name}",
                    got=f"{type(linear).__name__} of {weight.dtype}",
                    expected="a plain linear layer of float32 | bfloat16 | float16",
                    fix="Leave adapters unmerged on quantised weights (merge_adapters off).",
                )
            self._base[name] = self._copy(weight)

    @torch.no_grad()
    def apply(self, name: str, wanted: object, updates: Sequence[Update]) -> bool:
        """Make a layer's weight its base plus the updates, and say whether that took any work.

        Args:
            name: the layer, whose base is kept.
            wanted: identifies the updates; the same again is no work.
            updates: none restores the base.
        """
        if self._changed.get(name) == (wanted if updates else None):
            return False
        weight = self._linears[name].weight
        self._changed[name] = object()  # equal to nothing, should the following fail half-way
        base = self._base[name].to(weight.device, non_blocking=True)
        weight.copy_(merged_weight(base, updates) if updates else base)
        if updates:
            self._changed[name] = wanted
        else:
            del self._changed[name]
        return True

    def forget(self, name: str) -> None:
        """Drop the kept base of a layer that holds its base."""
        assert name not in self._changed
        self._base.pop(name, None)

    def _copy(self, weight: Tensor) -> Tensor:
        if self._keep == "device" or weight.device.type == "cpu":
            return weight.detach().clone()
        return torch.empty_like(weight, device="cpu", pin_memory=True).copy_(weight.detach())
