"""Processes of one torchrun group that succeed or fail together.

A process that gives up alone leaves the others waiting, or lets torchrun kill rank 0 before it has said what is wrong.
So every step ends with all ranks knowing whether any of them failed, and all raise the same error. Where that cannot
be asked, in the collectives of a video, a failure ends the whole group (`lockstep`).

This is the control plane: gloo, small pickled objects, no limit of time. Tensors on devices go through groups of
their own (`cosmos_core.context_parallel`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cosmos_core.errors import Cancelled, CrossroadsError, OutOfMemory, WorkerLost, from_payload
from cosmos_core.rank_watch import RankWatch

__all__ = ["Ranks"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_TIMEOUT = timedelta(days=30)
"""Ranks wait for work, and while rank 0 alone hashes, checks or writes; the watch notices those that are gone."""


class Ranks:
    """The processes that torchrun started, or this one alone; a context manager that all leave together.

    Args:
        say: tells the outside why the group ends, called on rank 0 right before it does; never with one process.
    """

    def __init__(self, say: Callable[[CrossroadsError], None] = lambda error: None) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self._say = say
        self._watch: RankWatch | None = None

    def __enter__(self) -> Ranks:
        if self.world_size > 1:
            dist.init_process_group("gloo", timeout=_TIMEOUT)
            watch = RankWatch(self.rank, self.world_size, self._say)
            dist.barrier()
            watch.start()
            self._watch = watch
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._watch is not None:
            if error is None:
                self.wait()
            self._watch.close()
            if error is None:
                self.wait()  # rank 0 may keep the store that the other watches ask
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
        if self._watch is not None:
            box: list[Any] = [(result, failure)]
            with self._others():
                dist.broadcast_object_list(box, src=0)
            result, failure = box[0]
        return _unwrap(result, failure)

    def together(self, call: Callable[[], _T]) -> _T:
        """What `call` returns on this rank, if it succeeds on all.

        Raises:
            CrossroadsError: what it raised on the lowest rank that failed, on every rank.
        """
        result, failure = _try(call)
        if self._watch is not None:
            failures = self.gather(failure)
            failure = next((one for one in failures if one is not None), None)
        return _unwrap(result, failure)

    def gather(self, mine: _T) -> list[_T]:
        """What every rank gives, in their order, on every rank."""
        gathered: list[Any] = [mine] * self.world_size
        if self._watch is not None:
            with self._others():
                dist.all_gather_object(gathered, mine)
        return gathered

    def wait(self) -> None:
        """Return when every rank is here."""
        if self._watch is not None:
            with self._others():
                dist.barrier()

    @contextmanager
    def lockstep(self) -> Iterator[None]:
        """For collectives that the others cannot leave: whatever is raised inside ends all ranks, after it is said.

        With one process it is raised as it is.
        """
        try:
            yield
        except BaseException as error:
            if self._watch is None:
                raise
            self._watch.fail(_as_ours(error))

    @contextmanager
    def _others(self) -> Iterator[None]:
        """For a collective of this class, whose only way to fail is that a process has gone."""
        try:
            yield
        except RuntimeError as error:
            assert self._watch is not None
            self._watch.fail(WorkerLost("a process of the group went away", got=str(error).split("\n")[0]))


def _try(call: Callable[[], _T]) -> tuple[_T | None, dict[str, Any] | None]:
    try:
        return call(), None
    except Exception as error:
        # It must reach the other ranks before it ends this one.
        return None, dict(_as_ours(error).to_payload())


def _as_ours(error: BaseException) -> CrossroadsError:
    if isinstance(error, CrossroadsError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory("the device ran out of memory", got=str(error).split("\n")[0])
    if not isinstance(error, Exception):
        return Cancelled("a process of the group was interrupted", got=type(error).__name__)
    logger.error("unexpected", exc_info=error)
    return CrossroadsError(f"unexpected {type(error).__name__}", got=error)


def _unwrap(result: Any, failure: dict[str, Any] | None) -> Any:
    if failure is not None:
        raise from_payload(failure)
    return result
