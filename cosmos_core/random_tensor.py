"""Random numbers that are the same on every machine and do not depend on the order in which they are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_tensor"]


def random_tensor(name: str, shape: Sequence[int], *, seed: int, std: float) -> Tensor:
    """A float32 tensor of normal numbers, determined by its name, the seed and the shape."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return torch.from_numpy(generator.standard_normal(tuple(shape)).astype(np.float32) * np.float32(std))
