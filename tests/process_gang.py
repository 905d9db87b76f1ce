"""Real processes for tests of what several ranks do: started once, given one function after another.

Each call makes a process group of its own (gloo, on this machine) of as many of the processes as it asks for, and has a
time limit after which all of them are killed.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

TIME_LIMIT_S = 120.0

# The server imports torch once, and forks; it has no threads yet.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.process_gang", "cosmos_core.serving"])


class Gang:
    """Up to `size` processes; a context manager."""

    def __init__(self, size: int) -> None:
        self.processes: list[Any] = []
        self._pipes: list[Connection] = []
        for _ in range(size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def start(self, world_size: int, call: Callable[..., Any], *arguments: Any) -> None:
        """Have `call(*arguments)` begin on that many ranks; it finds torchrun's environment variables."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        for rank, pipe in enumerate(self._pipes[:world_size]):
            pipe.send((rank, world_size, port, call, arguments))

    def run(self, world_size: int, call: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `call(*arguments)` returns on each of that many ranks; an exception on one of them is a failure."""
        self.start(world_size, call, *arguments)
        return self.results(world_size)

    def results(self, world_size: int) -> list[Any]:
        """What the call that was started returns on each rank; an exception on one of them is a failure."""
        deadline = time.monotonic() + TIME_LIMIT_S
        results = []
        for rank, pipe in enumerate(self._pipes[:world_size]):
            if not pipe.poll(max(0.0, deadline - time.monotonic())):
                self.__exit__()
                raise AssertionError(f"rank {rank} did not answer within {TIME_LIMIT_S:g} s")
            result, failure = pipe.recv()
            assert failure is None, f"rank {rank}: {failure}"
            results.append(result)
        return results

    def exit_code(self, rank: int, *, timeout_s: float = 30.0) -> int | None:
        """The exit code of a process that is expected to end by itself; None if it has not after that time."""
        self.processes[rank].join(timeout_s)
        return self.processes[rank].exitcode


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            rank, world_size, port, call, arguments = pipe.recv()
        except EOFError:
            return
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        try:
            pipe.send((call(*arguments), None))
        except Exception:
            pipe.send((None, traceback.format_exc()))
