"""One training on several GPUs of a machine: every process has its own clips, all take the same steps.

    torchrun --nproc-per-node 2 -m examples.tiny_model.train_vae build/tiny

Gradients are averaged; what depends on a clock (how far the training is, whether to go on) is what the first process
says, so that no process waits for one that has stopped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Processes"]


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training; without torchrun there is one."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls) -> Processes:
        """Meet the others that torchrun started."""
        rank, size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        device = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if size > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return cls(rank, size, device)

    def leave(self) -> None:
        """Part from the others."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and lines."""
        return self.rank == 0

    def first_says(self, value: float) -> float:
        """The first process's number."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, src=0)
        return float(told)

    def average(self, gradients: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size == 1:
            return
        listed = list(gradients)
        flat = torch.cat([gradient.flatten() for gradient in listed])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(listed, flat.split([gradient.numel() for gradient in listed]), strict=True):
            gradient.copy_(mean.view_as(gradient))
