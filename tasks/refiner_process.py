"""A refining model in a process of its own: one JSON line asks, one JSON line answers.

The process is started with the first question and ends when its input is closed, so also when this process dies. It is
kept apart because the flow runs without torch, and because its memory must be free again before videos are generated.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_core.errors import CrossroadsError, Transient, WorkerLost, from_payload

__all__ = ["RefinerProcess"]

_MODULE = "cosmos_core.refiner_process"
_END_TIMEOUT_S = 10.0


class RefinerProcess:
    """The process and its two pipes; safe to share between threads, one question at a time."""

    def __init__(
        self,
        *,
        folder: Path,
        device: str,
        dtype: str,
        load_timeout_s: float,
        answer_timeout_s: float,
        log: Path,
    ) -> None:
        self._command = [sys.executable, "-m", _MODULE, str(folder), "--device", device, "--dtype", dtype]
        self._load_timeout_s, self._answer_timeout_s = load_timeout_s, answer_timeout_s
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._lock = threading.Lock()

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one question.

        Raises:
            WorkerLost: the process died or took too long; it is started again with the next question.
            CrossroadsError: whatever the process says of its model or of the question.
        """
        with self._lock:
            try:
                if self._process is None:
                    self._start()
                return self._exchange(question)
            except Transient:
                self._end()
                raise

    def close(self) -> None:
        with self._lock:
            self._end()

    def _start(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8"
            )
        self._lines = queue.Queue()
        threading.Thread(target=_pump, args=(self._process, self._lines), daemon=True).start()
        try:
            self._receive(self._load_timeout_s, "while loading")
        except CrossroadsError:
            self._end()  # it says why it cannot serve, and is of no use
            raise

    def _exchange(self, question: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
        except OSError as error:
            raise self._lost("before it was asked") from error
        return self._receive(self._answer_timeout_s, "while answering")

    def _receive(self, timeout_s: float, when: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise self._lost(f"{when}: silent for {timeout_s:g} s") from None
        if line is None:
            raise self._lost(when)
        try:
            answer = json.loads(line)
        except ValueError:
            raise self._lost(f"{when}: it said something else than JSON") from None
        if "error" in answer:
            raise from_payload(answer["error"])
        return dict(answer)

    def _lost(self, when: str) -> WorkerLost:
        return WorkerLost("the refiner's process is lost", got=when, fix=f"Its last words are in {self._log}.")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
        except OSError:
            process.kill()  # it is gone already, or will not read
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Hand on what the process says, and None when it ends."""
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)
