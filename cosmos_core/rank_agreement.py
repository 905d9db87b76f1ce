"""Processes of one torchrun group that succeed or fail together.

A process that gives up alone leaves the others waiting, or lets torchrun kill rank 0 before it has said what is wrong.
So every step ends with all ranks knowing whether any of them failed, and all raise the same error.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cosmos_core.errors import CrossroadsError, OutOfMemory, from_payload

__all__ = ["Ranks"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_TIMEOUT = timedelta(hours=6)
"""Ranks wait while rank 0 alone hashes, checks or writes; a rank that died is noticed by torchrun, not by this."""


class Ranks:
    """The processes that torchrun started, or this one alone; a context manager."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self._joined = False

    def __enter__(self) -> Ranks:
        if self.world_size > 1:
            dist.init_process_group("gloo", timeout=_TIMEOUT)
            self._joined = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._joined:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def first(self, call: Callable[[], _T]) -> _T:
        """What `call` returns on rank 0, on every rank.

        Raises:
            CrossroadsError: what it raised there, on every rank.
        """
        result, failure = _try(call) if self.is_first else (None, None)
        if self._joined:
            box: list[Any] = [(result, failure)]
            dist.broadcast_object_list(box, src=0)
            result, failure = box[0]
        return _unwrap(result, failure)

    def together(self, call: Callable[[], _T]) -> _T:
        """What `call` returns on this rank, if it succeeds on all.

        Raises:
            CrossroadsError: what it raised on the lowest rank that failed, on every rank.
        """
        result, failure = _try(call)
        if self._joined:
            failures: list[Any] = [None] * self.world_size
            dist.all_gather_object(failures, failure)
            failure = next((one for one in failures if one is not None), None)
        return _unwrap(result, failure)

    def wait(self) -> None:
        """Return when every rank is here."""
        if self._joined:
            dist.barrier()


def _try(call: Callable[[], _T]) -> tuple[_T | None, dict[str, Any] | None]:
    try:
        return call(), None
    except CrossroadsError as error:
        return None, dict(error.to_payload())
    except torch.OutOfMemoryError as error:
        return None, dict(OutOfMemory("the device ran out of memory", got=str(error).splitlines()[0]).to_payload())
    except Exception as error:
        # It must reach the other ranks before it ends this one.
        logger.exception("unexpected")
        return None, dict(CrossroadsError(f"unexpected {type(error).__name__}", got=error).to_payload())


def _unwrap(result: Any, failure: dict[str, Any] | None) -> Any:
    if failure is not None:
        raise from_payload(failure)
    return result
