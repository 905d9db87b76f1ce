"""Several processes that compute one video: the groups in which they trade tensors, and who computes which branch.

All of them hold the whole transformer and the whole sample. A forward shares its tokens (`cosmos_core.token_shard`);
with guidance and an even number of processes, one half computes the conditional branch and the other the unconditional
one. Everything between two forwards is small and computed by all, from equal numbers, so the samples stay equal bit
for bit. Layouts: `cosmos_core.group_layout`.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.conditioning import Branch
from cosmos_core.group_layout import GroupLayout, check_group_size, group_layout
from cosmos_core.rank_agreement import Ranks
from cosmos_core.rank_group import RankGroup

__all__ = ["ContextParallel"]

_TIMEOUT = timedelta(minutes=10)
"""Of one collective on the device; between videos nobody waits in one."""


class ContextParallel:
    """The processes of a torchrun group as one video needs them.

    Args:
        ranks: the processes; more than one.
        architecture: of the transformer.
        device: of this process.

    Raises:
        BadConfig: so many processes cannot share this transformer.
    """

    def __init__(self, ranks: Ranks, architecture: DiTArchitecture, device: torch.device) -> None:
        check_group_size(architecture, ranks.world_size)
        # Multicast memory cannot be had everywhere where NCCL takes it for granted, and only reductions gain from it.
        os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
        self.ranks = ranks
        self._architecture = architecture
        self._backend = "nccl" if device.type == "cuda" else "gloo"
        size, half = ranks.world_size, ranks.world_size // 2
        self._all = self._group([list(range(size))])
        self._half: RankGroup | None = None
        self._pair: RankGroup | None = None
        if size % 2 == 0:
            self._pair = self._group([[rank, rank + half] for rank in range(half)])
            if half > 1:
                self._half = self._group([list(range(half)), list(range(half, size))])

    def layout(self, *, guided: bool) -> GroupLayout:
        """Who computes what in a video with or without guidance."""
        return group_layout(self._architecture, self.ranks.world_size, guided=guided)

    def token_group(self, *, guided: bool) -> RankGroup | None:
        """The processes that share the tokens of a forward with this one; none if it has all of them."""
        return self._half if self.layout(guided=guided).cfg == 2 else self._all

    def both_branches(self, cond: Branch, uncond: Branch) -> tuple[Tensor, Tensor]:
        """The results of both branches of guidance, on every process."""
        if self._pair is None:
            return cond(), uncond()
        mine = cond() if self._pair.rank == 0 else uncond()
        first, second = self._pair.collect(mine, [tuple(mine.shape)] * 2)
        return first, second

    def share(self, tensor: Tensor) -> None:
        """Overwrite a contiguous tensor with that of rank 0."""
        self._all.broadcast(tensor)

    def _group(self, members: list[list[int]]) -> RankGroup:
        """The one of these disjoint groups that this process is in; every process makes all of them."""
        own, _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
            members, timeout=_TIMEOUT, backend=self._backend
        )
        return RankGroup(own)
