"""A network in bfloat16 that learns in float32: gradients go to float32 copies of its weights, which are rounded back.

An exponential moving average of the float32 weights is kept beside them; it is what gets published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MasterWeights"]


class MasterWeights:
    """Float32 weights and their average for the trainable parameters of a network.

    Args:
        network: lives in any dtype; its parameters that require gradients are trained.
        ema_decay: of the average, approached from below in the first steps.

    Kernels of convolutions are kept as matrices [out, in * size], which Muon takes them for.
    """

    def __init__(self, network: nn.Module, *, ema_decay: float = 0.999) -> None:
        self._live = {name: value for name, value in network.named_parameters() if value.requires_grad}
        self._shapes = {name: value.shape for name, value in self._live.items()}
        self.weights = {name: nn.Parameter(_as_matrix(value).float().clone()) for name, value in self._live.items()}
        self._average = {name: value.detach().clone() for name, value in self.weights.items()}
        self._ema_decay = ema_decay
        self._num_updates = 0

    def take_gradients(self, *, max_norm: float, average: Callable[[Iterable[Tensor]], None] | None = None) -> Tensor:
        """Move the network's gradients over, clipped to a norm; returns the norm before that, on the device.

        Args:
            max_norm: to which they are clipped.
            average: replaces gradients by their mean over several processes, in place.
        """
        for name, live in self._live.items():
            weight = self.weights[name]
            # In the memory layout of the weight, which fused optimizers ask for.
            weight.grad = torch.zeros_like(weight)
            if live.grad is not None:
                weight.grad.copy_(_as_matrix(live.grad))
            live.grad = None
        if average is not None:
            average(weight.grad for weight in self.weights.values() if weight.grad is not None)
        return torch.nn.utils.clip_grad_norm_(self.weights.values(), max_norm, foreach=True)

    @torch.no_grad()
    def give_weights(self) -> None:
        """After the optimizer's step: update the average and round the weights into the network."""
        self._num_updates += 1
        decay = min(self._ema_decay, (1 + self._num_updates) / (10 + self._num_updates))
        names = list(self.weights)
        weights = [self.weights[name].detach() for name in names]
        torch._foreach_lerp_([self._average[name] for name in names], weights, 1 - decay)
        for name, weight in zip(names, weights, strict=True):
            self._live[name].copy_(weight.view(self._shapes[name]))

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights, float32; not copies."""
        return {name: value.view(self._shapes[name]) for name, value in self._average.items()}

    def split(self, is_first: Iterable[str]) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """The float32 weights of the given names, and the others."""
        first = set(is_first)
        return (
            {name: value for name, value in self.weights.items() if name in first},
            {name: value for name, value in self.weights.items() if name not in first},
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs, apart from the optimizer's state."""
        weights = {name: value.detach() for name, value in self.weights.items()}
        return {"weights": weights, "average": self._average, "num_updates": self._num_updates}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; the network gets its weights."""
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
            self._average[name].copy_(state["average"][name])
            self._live[name].copy_(value.view(self._shapes[name]))
        self._num_updates = state["num_updates"]


def _as_matrix(value: Tensor) -> Tensor:
    """Kernels [out, in, ...] as [out, in * size]; everything else as it is."""
    value = value.detach()
    return value.reshape(value.shape[0], -1) if value.ndim > 2 else value
