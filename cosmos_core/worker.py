"""A generation worker: loads one model, then serves scenarios one after another until it is told to stop.

Started by torchrun (`python -m torch.distributed.run ... -m cosmos_core.worker SPEC`), one process a GPU, or one on a
CPU; several render each video together. Rank 0 listens on a Unix socket, hands each request to all ranks and alone
writes results. A worker never outlives its client: when the connection closes, or nobody connects in time, it ends
itself, so that a killed flow leaves no process behind.

    set up: process group, socket
    serve:  encode_prompts | load_model | generate_video, each answered with progress and one Done or Failed
    tear down: process group destroyed, socket removed

An error that all processes can agree on is the answer to its request, and the worker goes on. One in the middle of the
collectives of a video is answered too, as `Failed` with `worker_ends`, and ends all of them.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from cosmos_core.environment import describe_environment
from cosmos_core.errors import CrossroadsError, OutOfMemory
from cosmos_core.protocol import (
    Alive,
    Done,
    EncodePrompts,
    Failed,
    Loading,
    LoadModel,
    Progress,
    Ready,
    Request,
    Stop,
    WorkerSpec,
    decode_request,
    encode,
)
from cosmos_core.rank_agreement import Ranks
from cosmos_core.serving import Server

__all__ = ["main"]

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
_CLIENT_POLL_S = 0.5

Answer = Callable[[BaseModel], None]


class Connection:
    """The one client of a worker, seen from rank 0.

    A thread reads requests, so that a client that goes away is noticed at once, also in the middle of a long step.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = Path(spec.socket_path)
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(1)
        self._listener.settimeout(_CLIENT_POLL_S)
        self._client_pid = spec.client_pid
        self._connect_timeout_s = spec.connect_timeout_s
        self._send_lock = threading.Lock()
        self.requests: queue.Queue[Request] = queue.Queue()
        self._socket: socket.socket | None = None

    def accept(self) -> None:
        """Wait for the client; end the process if none comes in time, or if it was killed in the meantime."""
        deadline = time.monotonic() + self._connect_timeout_s
        while self._socket is None:
            try:
                self._socket, _ = self._listener.accept()
            except TimeoutError:
                if time.monotonic() > deadline:
                    self._end_process("nobody connected")
                if self._client_pid is not None and not Path(f"/proc/{self._client_pid}").exists():
                    self._end_process("the client is gone")
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        threading.Thread(target=self._beat, name="heart-beat", daemon=True).start()

    def send(self, message: BaseModel) -> None:
        """Send one event; a client that is gone is noticed by the reading thread."""
        assert self._socket is not None
        with self._send_lock:
            try:
                self._socket.sendall(encode(message))
            except OSError as error:
                logger.warning("the client is gone: %s", error)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        assert self._socket is not None
        with self._socket.makefile("rb") as lines:
            for line in lines:
                try:
                    request = decode_request(line)
                except ValueError as error:
                    self.send(Failed(request_id="?", error=_payload(error)))
                    continue
                self.requests.put(request)
                if isinstance(request, Stop):
                    return
        self._end_process("the client closed the connection")

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            self.send(Alive())

    def _end_process(self, why: str) -> None:
        # Only an immediate exit is safe here: the main thread may be deep in a kernel. torchrun sees the exit code
        # and ends the other ranks.
        logger.warning("worker ends: %s", why)
        self._path.unlink(missing_ok=True)
        os._exit(3)


def _payload(error: BaseException) -> dict[str, Any]:
    if isinstance(error, CrossroadsError):
        return dict(error.to_payload())
    if isinstance(error, torch.OutOfMemoryError):
        return dict(OutOfMemory("the device ran out of memory", got=str(error).splitlines()[0]).to_payload())
    return {"type": "CrossroadsError", "what": f"{type(error).__name__}: {error}", "got": None, "expected": None}


def _handle(server: Server, request: Request, answer: Answer) -> None:
    started = time.monotonic()

    def on_step(stage: str, step: int, num_steps: int) -> None:
        answer(Progress(request_id=request.request_id, stage=stage, step=step, num_steps=num_steps))

    try:
        if isinstance(request, EncodePrompts):
            result = server.encode_prompts(request, on_step)
        elif isinstance(request, LoadModel):
            result = server.load_model(on_part=lambda part: answer(Loading(part=part)))
        elif isinstance(request, Stop):
            result = {}
        else:
            result = server.generate(request, on_step)
    except Exception as error:
        # The border of the worker: whatever one request did, it becomes its answer and the next goes on.
        logger.exception("request %s failed", request.request_id)
        answer(Failed(request_id=request.request_id, error=_payload(error)))
        return
    answer(Done(request_id=request.request_id, result=result | {"total_s": time.monotonic() - started}))


def serve(spec: WorkerSpec) -> None:
    """Set up, serve requests until `Stop`, tear down.

    Raises:
        BadConfig: the group is larger than the model allows; the client is told before.
    """
    connection = Connection(spec) if os.environ["RANK"] == "0" else None
    if connection is not None:
        connection.accept()
    answer: Answer = connection.send if connection is not None else lambda message: None
    request_id = "start"

    def say(error: CrossroadsError) -> None:
        answer(Failed(request_id=request_id, error=_payload(error), worker_ends=True))

    try:
        with Ranks(say) as ranks:
            try:
                server = ranks.together(lambda: Server(spec, ranks))
            except CrossroadsError as error:
                say(error)
                raise
            pids = tuple(ranks.gather(os.getpid()))
            answer(Ready(pids=pids, device=str(server.device), environment=describe_environment()))
            request: Request | None = None
            while not isinstance(request, Stop):
                request = ranks.first(lambda: _next(connection))
                request_id = request.request_id
                _handle(server, request, answer)
    finally:
        if connection is not None:
            connection.close()


def _next(connection: Connection | None) -> Request:
    assert connection is not None
    return connection.requests.get()


def main(argv: list[str] | None = None) -> None:
    """Entry point of `python -m cosmos_core.worker SPEC`."""
    parser = argparse.ArgumentParser(
        prog="cosmos_core.worker", description="Serve video generation over a Unix socket."
    )
    parser.add_argument("spec", type=Path, help="JSON file of a WorkerSpec")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    serve(WorkerSpec.model_validate_json(arguments.spec.read_text()))


if __name__ == "__main__":
    main()
