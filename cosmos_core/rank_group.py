"""Processes that trade tensors on the device: the one collective that context parallelism needs, with uneven sizes.

Everything goes through all-to-all, which gloo and NCCL both have with sizes that differ from rank to rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_core.errors import WorkerLost

__all__ = ["RankGroup"]


class RankGroup:
    """Some processes of a torchrun group, this one among them.

    Args:
        group: the process group; its backend must be that of the tensors' device.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def trade(self, outgoing: Tensor, sizes: Sequence[int], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send each rank its part and receive one from each.

        Args:
            outgoing: the parts for rank 0, 1, ... one after another; read as a flat tensor.
            sizes: numbers of elements of these parts.
            shapes: of the parts that come from rank 0, 1, ...

        Returns:
            The received parts, in the order of the ranks.

        Raises:
            WorkerLost: another process has gone.
        """
        received_sizes = [math.prod(shape) for shape in shapes]
        received = outgoing.new_empty(sum(received_sizes))
        flat = outgoing.reshape(-1)
        with _lost():
            dist.all_to_all_single(received, flat, received_sizes, list(sizes), group=self._group)
        return [part.view(shape) for part, shape in zip(received.split_with_sizes(received_sizes), shapes, strict=True)]

    def collect(self, mine: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """The tensors of all ranks, in their order.

        Args:
            mine: of this rank.
            shapes: of every rank's tensor.

        Raises:
            WorkerLost: another process has gone.
        """
        return self.trade(mine.reshape(-1).repeat(self.size), [mine.numel()] * self.size, shapes)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a contiguous tensor with that of the group's first rank.

        Raises:
            WorkerLost: another process has gone.
        """
        with _lost():
            dist.broadcast(tensor, group=self._group, group_src=0)


@contextmanager
def _lost() -> Iterator[None]:
    """Name what a collective raises when a process of the group has gone."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise WorkerLost(
            "a process of the group went away in the middle of a video", got=str(error).split("\n")[0]
        ) from error
