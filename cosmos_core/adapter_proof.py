"""Proof that an adapter acts: its size, the norm of what it adds to every layer, and a forward that it changes.

A wrong name in a file, an untrained matrix or an update lost in rounding all leave the base model behind, and its
videos look fine. So every adapter is tried once, alone, on a small fixed input, and one that changes nothing is an
error.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cosmos_core.adapter_set import AdapterSet
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, CheckpointMismatch
from cosmos_core.random_tensor import random_tensor

__all__ = ["AdapterProof", "probe_output", "prove"]

_PROBE_FRAMES, _PROBE_SIZE, _PROBE_TOKENS = 2, 8, 16
_PROBE_TIME = 0.5
"""Of sigma = 1, in the middle of the schedule."""
_BLOCK = re.compile(r"^blocks\.\d+\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterProof:
    """What one adapter was measured to do, at strength 1."""

    name: str
    rank: int
    alpha: float
    num_parameters: int
    ratio: float
    """Its share in all parameters, the base's and its own."""
    norms: dict[str, float]
    """Frobenius norm of alpha / rank * B A of every adapted layer."""
    probe_difference: float
    """|adapted - base| / |base| of the probe's output; absolute where the base gives zero."""

    @property
    def is_inert(self) -> bool:
        """Whether the network computes what it computes without the adapter."""
        return self.probe_difference == 0 or max(self.norms.values()) == 0

    def to_record(self) -> dict[str, Any]:
        """JSON-ready; norms with four digits, by kind of layer in the order of the blocks."""
        by_layer: dict[str, list[float]] = {}
        for module, norm in self.norms.items():
            by_layer.setdefault(_BLOCK.sub("", module), []).append(float(f"{norm:.4g}"))
        return {
            "rank": self.rank,
            "alpha": self.alpha,
            "parameters": self.num_parameters,
            "ratio": self.ratio,
            "layers": len(self.norms),
            "mean": statistics.fmean(self.norms.values()),
            "max": max(self.norms.values()),
            "by_layer": by_layer,
            "probe_difference": self.probe_difference,
        }


def prove(
    adapters: AdapterSet, *, names: Collection[str] | None = None, allow_inert: Collection[str] = ()
) -> list[AdapterProof]:
    """Measure adapters of the set; afterwards the set is in use as before.

    Args:
        adapters: the set; more than one forward of its network is run.
        names: those to measure; all of the set if not given.
        allow_inert: adapters that may change nothing.

    Raises:
        AdapterMismatch: an adapter changes nothing, or has weights that are not numbers.
        CheckpointMismatch: the network itself has weights that are not numbers.
    """
    before, counts, num_base = adapters.active, adapters.parameter_counts(), adapters.num_base_parameters()
    try:
        adapters.use({})
        base = _base_output(adapters.dit)
        proofs = []
        for name in adapters.names if names is None else names:
            adapters.use({name: 1.0})
            spec = adapters.spec(name)
            proofs.append(
                AdapterProof(
                    name=name,
                    rank=spec.rank,
                    alpha=spec.alpha,
                    num_parameters=counts[name],
                    ratio=counts[name] / (num_base + counts[name]),
                    norms=adapters.effective_norms(name),
                    probe_difference=_difference(probe_output(adapters.dit), base),
                )
            )
    finally:
        adapters.use(before)
    _refuse_broken(proofs)
    _refuse_inert(proofs, allow_inert)
    return proofs


@torch.no_grad()
def probe_output(dit: DiT) -> Tensor:
    """The network's answer to a small fixed input, float32 [1, C, 2, 8, 8] on the CPU.

    The same numbers on every machine: a noisy latent with a clean first frame, and a text of 16 tokens.
    """
    architecture = dit.architecture
    latent = (1, architecture.in_channels, _PROBE_FRAMES, _PROBE_SIZE, _PROBE_SIZE)
    text = (1, _PROBE_TOKENS, architecture.crossattn_emb_channels)
    mask = torch.zeros(1, 1, *latent[2:])
    mask[:, :, 0] = 1
    device = dit.device
    output: Tensor = dit(
        random_tensor("probe latent", latent, seed=0, std=1.0).to(device),
        torch.full((1, _PROBE_FRAMES), _PROBE_TIME, device=device),
        random_tensor("probe text", text, seed=0, std=0.1).to(device),
        condition_mask_B1THW=mask.to(device),
        fps_B=torch.tensor([16]),
    )
    return output.float().cpu()


def _base_output(dit: DiT) -> Tensor:
    output = probe_output(dit)
    if not output.isfinite().all():
        raise CheckpointMismatch(
            "the base model's answer to the probe is not finite",
            got="NaN or infinite values",
            fix="The checkpoint is damaged, or its weights do not fit into the dtype: check its SHA-256.",
        )
    return output


def _difference(adapted: Tensor, base: Tensor) -> float:
    norm, distance = float(base.double().norm()), float((adapted.double() - base.double()).norm())
    return distance / norm if norm else distance


def _refuse_broken(proofs: Sequence[AdapterProof]) -> None:
    for proof in proofs:
        if not math.isfinite(proof.probe_difference + max(proof.norms.values())):
            raise AdapterMismatch(
                f"adapter {proof.name} has weights that are not numbers",
                got=f"a probe that differs by {proof.probe_difference} and a largest norm {max(proof.norms.values())}",
                expected="finite values",
                fix="The file is damaged or the training diverged: take another iteration.",
            )


def _refuse_inert(proofs: Sequence[AdapterProof], allowed: Collection[str]) -> None:
    inert = [proof for proof in proofs if proof.is_inert and proof.name not in allowed]
    if inert:
        proof = inert[0]
        raise AdapterMismatch(
            f"adapter {', '.join(proof.name for proof in inert)} changes nothing",
            got=f"a largest update of norm {max(proof.norms.values()):.3g} and a probe that differs from the base by "
            f"{proof.probe_difference:.3g}",
            expected="an update that changes the network's output",
            fix="The adapter was never trained, or its update is lost in the rounding of the weights: check the "
            "training iteration, or allow it with allow_inert.",
        )
