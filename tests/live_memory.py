"""Bytes of tensors that are alive while a network runs without values, on the meta device."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

__all__ = ["LiveMemory"]


class LiveMemory(TorchDispatchMode):
    """Counts the storages of all tensors that operations return in its `with` block, until they are freed.

    Tensors from outside count once an operation gives back a view of them; so that parameters do not, pass theirs.
    """

    def __init__(self, outside: torch.nn.Module | None = None) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        parameters = outside.parameters() if outside is not None else ()
        self._counted = {parameter.untyped_storage()._cdata for parameter in parameters}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._count, result)
        return result

    def _count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._counted:
            self._counted.add(key)
            self._now += num_bytes
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, key, num_bytes)
        return tensor

    def _free(self, key: int, num_bytes: int) -> None:
        self._counted.discard(key)
        self._now -= num_bytes
