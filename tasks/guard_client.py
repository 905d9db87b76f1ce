"""A task's side of a guard process: start it when it is first needed, ask it, be sure that it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from cosmos_core.errors import BadModel, WorkerLost
from cosmos_core.guard_protocol import (
    CheckTexts,
    FindFaces,
    GuardAnswer,
    GuardReady,
    GuardRequest,
    GuardSpec,
    ScoreFrames,
    decode_answer,
)
from cosmos_core.protocol import Failed, encode

__all__ = ["GuardClient"]

_GRACE_S = 5.0


class GuardClient:
    """One guard process. Safe to share between threads: requests wait for each other.

    Args:
        load_timeout_s: until the model is loaded.
        timeout_s: for one request.
    """

    def __init__(self, spec: GuardSpec, *, log_folder: Path, load_timeout_s: float, timeout_s: float) -> None:
        self.spec = spec
        self._log_folder = log_folder
        self._load_timeout_s = load_timeout_s
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready: GuardReady | None = None
        self._refused: BadModel | None = None
        self._closed = False
        self._buffer = b""

    def ready(self) -> GuardReady:
        """What is loaded; loads it if need be.

        Raises:
            BadModel: a model file is missing or wrong; that is found out once.
            WorkerLost: the process died or did not answer in time.
        """
        with self._lock:
            return self._started()

    def check_texts(self, texts: tuple[str, ...]) -> list[dict[str, Any]]:
        """What the model says about each text: `text`, `finished`, `score`."""
        answers = self._ask(CheckTexts(request_id=uuid.uuid4().hex, texts=texts)).get("answers")
        return _whole(answers, len(texts))

    def score_frames(self, frames_path: Path, indices: tuple[int, ...]) -> dict[str, list[float]]:
        """Scores of some frames of a .npy file, by class."""
        request = ScoreFrames(request_id=uuid.uuid4().hex, frames_path=str(frames_path.absolute()), indices=indices)
        scores = self._ask(request).get("scores")
        if not isinstance(scores, dict) or not scores:
            raise WorkerLost("a guard process left scores out", got=type(scores).__name__)
        return {name: _whole(values, len(indices)) for name, values in scores.items()}

    def find_faces(self, frames_path: Path, indices: tuple[int, ...]) -> list[list[list[float]]]:
        """Boxes x, y, width, height, score in some frames of a .npy file."""
        request = FindFaces(request_id=uuid.uuid4().hex, frames_path=str(frames_path.absolute()), indices=indices)
        return _whole(self._ask(request).get("boxes"), len(indices))

    def close(self) -> None:
        """End the process; may be called any number of times, also while a request is waiting in another thread."""
        self._closed = True
        process = self._process
        if not self._lock.acquire(blocking=False):
            if process is not None:
                process.kill()  # whoever waits for an answer sees the end of it and lets go of the lock
            self._lock.acquire()
        try:
            self._kill()
        finally:
            self._lock.release()

    def _ask(self, request: GuardRequest) -> dict[str, Any]:
        with self._lock:
            self._started()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(encode(request))
                self._process.stdin.flush()
            except OSError:
                raise self._lost("a guard process closed its input") from None
            answer = self._next(self._timeout_s)
            if isinstance(answer, GuardReady) or answer.request_id != request.request_id:
                raise self._lost("a guard process answered something else")
            if isinstance(answer, Failed):
                raise answer.to_error()
            return answer.result

    def _started(self) -> GuardReady:
        if self._closed:
            raise WorkerLost("the guard process was stopped")
        if self._refused is not None:
            raise self._refused
        if self._ready is not None and self._process is not None and self._process.poll() is None:
            return self._ready
        self._kill()
        self._buffer = b""
        self._log_folder.mkdir(parents=True, exist_ok=True)
        log_path = self._log_folder / f"guard-{os.getpid()}-{time.time_ns()}.log"
        command = [sys.executable, "-m", "cosmos_core.guard_server", self.spec.model_dump_json()]
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        answer = self._next(self._load_timeout_s)
        if isinstance(answer, Failed):
            error = answer.to_error()
            self._kill()
            if isinstance(error, BadModel):
                self._refused = error
            raise error
        if not isinstance(answer, GuardReady):
            raise self._lost(f"a guard process said {answer.type} before it was ready")
        self._ready = answer
        return answer

    def _next(self, timeout_s: float) -> GuardAnswer:
        assert self._process is not None
        assert self._process.stdout is not None
        stream = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._lost(f"a guard process gave no answer within {timeout_s:g} s")
                data = os.read(stream, 1 << 16)
                if not data:
                    raise self._lost("a guard process died")
                self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            return decode_answer(line)
        except ValueError:
            raise self._lost("a guard process sent something that is no answer") from None

    def _lost(self, what: str) -> WorkerLost:
        self._kill()
        return WorkerLost("the guard process was stopped" if self._closed else what, fix=f"Logs: {self._log_folder}")

    def _kill(self) -> None:
        process, self._ready = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            # An idle process ends by itself when its input closes.
            process.wait(_GRACE_S if self._closed else 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None


def _whole(items: Any, expected: int) -> list[Any]:
    """A list of one entry for each thing that was asked about; anything else is an answer with holes."""
    if not isinstance(items, list) or len(items) != expected:
        got = len(items) if isinstance(items, list) else type(items).__name__
        raise WorkerLost("a guard process left something out", got=got, expected=f"{expected} answers")
    return items
