"""Muon for many small matrices: those of one shape are orthogonalized together, in a few large kernels.

The rule is that of `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, which takes every matrix by itself and so
spends a small network's step on starting kernels. A test holds the two together.

Legend: N matrices of one shape, R rows, S columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["BatchedMuon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz step, from torch.optim.Muon."""
_NUM_STEPS = 5
_EPS = 1e-7


class BatchedMuon(Optimizer):
    """Momentum orthogonalized by Newton-Schulz steps, with decoupled weight decay.

    Args:
        params: matrices, or groups of them.
        lr: learning rate, comparable with AdamW's.
        momentum: of Nesterov's kind.
        weight_decay: share of the weights times the rate that is taken off in a step.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                gradients = [weight.grad for weight in weights]
                momenta = [self._momentum(weight) for weight in weights]
                torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
                updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                directions = list(_orthogonalized(updates).float().unbind(0))
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, directions, alpha=-rate)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def _orthogonalized(updates_NRS: Tensor) -> Tensor:
    """About U V^T of every matrix's U S V^T, bfloat16."""
    a, b, c = _COEFFICIENTS
    x = updates_NRS.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_NUM_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x
