"""What ends a group of processes when one of them fails where the others cannot be asked, or falls silent.

In the middle of a video every process waits for the others inside collectives, on a GPU in kernels that nothing can
interrupt. So a failure there ends the group: the process that failed writes its error into the store that torchrun
keeps, a thread of each process reads it, rank 0 says it, and all exit. The same thread counts heart-beats, because a
process that is stopped or stuck says nothing.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist

from cosmos_core.errors import CrossroadsError, WorkerLost, from_payload

__all__ = ["EXIT_CODE", "RankWatch"]

logger = logging.getLogger(__name__)

EXIT_CODE = 1
"""Of every process of a group that was ended."""
_INTERVAL_S = 0.5
_SILENT_INTERVALS = 120
"""A minute. Counted in this process's own intervals, so that a pause of the whole machine counts once."""
_SAY_TIMEOUT_S = 10.0
_STORE_TIMEOUT = timedelta(seconds=10)
_FAILURE, _SAID = "failure", "said"


class RankWatch:
    """One process's watch over its group.

    Args:
        rank: of this process.
        world_size: processes of the group; torchrun's store must be running.
        say: tells the outside, on rank 0, why the group ends.
    """

    def __init__(self, rank: int, world_size: int, say: Callable[[CrossroadsError], None]) -> None:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, is_master=False, timeout=_STORE_TIMEOUT
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(  # type: ignore[attr-defined]
            f"rank_watch/{attempt}", store
        )
        self._rank = rank
        self._say = say
        self._beats = [f"beat/{other}" for other in range(world_size)]
        self._seen: list[bytes] = [b""] * world_size
        self._missed = [0] * world_size
        self._beat(0)
        self._ending = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rank watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; every process of the group must have made its watch before."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching; the group is about to part in peace."""
        self._closed.set()
        self._thread.join()

    def fail(self, error: CrossroadsError) -> NoReturn:
        """End the group for this reason, or for the one that another process gave before."""
        try:
            first = self._store.compare_set(_FAILURE, "", json.dumps(error.to_payload()))
        except RuntimeError:
            logger.exception("the store of the group is gone")
        else:
            error = from_payload(json.loads(first))
        self._end(error)

    def _watch(self) -> None:
        count = 0
        while not self._closed.wait(_INTERVAL_S):
            count += 1
            try:
                self._beat(count)
                if self._store.check([_FAILURE]):
                    self._end(from_payload(json.loads(self._store.get(_FAILURE))))
                silent = self._silent()
            except RuntimeError as lost:
                self._end(WorkerLost("the processes of the group lost their store", got=str(lost).split("\n")[0]))
            if silent:
                self.fail(WorkerLost("a process of the group is silent", got=f"nothing from rank {silent[0]}"))

    def _beat(self, count: int) -> None:
        self._store.set(self._beats[self._rank], str(count))

    def _silent(self) -> list[int]:
        """Ranks that have missed too many beats."""
        beats = self._store.multi_get(self._beats)
        for rank, (beat, seen) in enumerate(zip(beats, self._seen, strict=True)):
            self._missed[rank] = self._missed[rank] + 1 if beat == seen else 0
        self._seen = beats
        return [rank for rank, missed in enumerate(self._missed) if missed > _SILENT_INTERVALS]

    def _end(self, error: CrossroadsError) -> NoReturn:
        """Exit, after rank 0 has said why."""
        self._ending.acquire()  # for ever: whoever comes second must not speak again
        logger.error("rank %d ends with its group: %s", self._rank, error)
        try:
            if self._rank == 0:
                self._say(error)
            self._wait_until_said()
        finally:
            os._exit(EXIT_CODE)

    def _wait_until_said(self) -> None:
        # torchrun stops rank 0 as soon as another process exits.
        try:
            if self._rank == 0:
                self._store.set(_SAID, "yes")
            deadline = time.monotonic() + _SAY_TIMEOUT_S
            while not self._store.check([_SAID]) and time.monotonic() < deadline:
                time.sleep(_INTERVAL_S / 10)
        except RuntimeError:
            logger.warning("rank %d could not ask whether the failure was said", self._rank)
