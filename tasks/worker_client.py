"""A task's side of a generation worker: start the torchrun group, talk to it, be sure that it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cosmos_core.errors import WorkerLost
from cosmos_core.protocol import (
    Alive,
    Done,
    EncodePrompts,
    Event,
    Failed,
    GenerateVideo,
    Loading,
    LoadModel,
    Progress,
    Ready,
    Stop,
    WorkerSpec,
    decode_event,
    encode,
)

__all__ = ["WorkerClient"]

OnEvent = Callable[[Progress | Loading], None]

_GRACE_S = 5.0
_LOG_TAIL_BYTES = 4000


class WorkerClient:
    """One torchrun group. Not thread safe but for `kill`: one request at a time."""

    def __init__(
        self,
        spec: dict[str, Any],
        *,
        log_folder: Path,
        gpu: str | None,
        num_processes: int = 1,
        startup_timeout_s: float,
        silence_timeout_s: float,
    ) -> None:
        self._runtime = Path(tempfile.mkdtemp(prefix="crossroads-"))
        socket_path = self._runtime / "worker.sock"
        self.spec = WorkerSpec.model_validate(spec | {"socket_path": str(socket_path), "client_pid": os.getpid()})
        self.ready: Ready | None = None
        self.log_path = log_folder / f"worker-{os.getpid()}-{time.time_ns()}.log"
        self._gpu = gpu
        self._num_processes = num_processes
        self._startup_timeout_s = startup_timeout_s
        self._silence_timeout_s = silence_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._killed = threading.Event()

    def start(self) -> Ready:
        """Start the group and wait until all its processes answer.

        Raises:
            WorkerLost: it died or did not answer in time; the message ends with the tail of its log.
        """
        spec_path = self._runtime / "spec.json"
        spec_path.write_text(self.spec.model_dump_json())
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(self.spec.num_threads or os.cpu_count() or 1),
            # Threads that spin at barriers make a shared small machine several times slower.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }
        if self._gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpu
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [
            f"--nproc_per_node={self._num_processes}",
            "--max_restarts=0",
            "-m",
            "cosmos_core.worker",
            str(spec_path),
        ]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + self._startup_timeout_s
        self._connect(deadline)
        event = self._next_event(deadline, self._startup_timeout_s)
        while isinstance(event, Alive | Loading):
            event = self._next_event(deadline, self._startup_timeout_s)
        if not isinstance(event, Ready):
            raise self._lost(f"a worker said {event.type} before it was ready")
        self.ready = event
        return event

    def request(
        self, message: EncodePrompts | LoadModel | GenerateVideo, *, timeout_s: float, on_event: OnEvent | None = None
    ) -> dict[str, Any]:
        """Send one request and return the result of its `Done`.

        Raises:
            CrossroadsError: what the worker answered; the worker goes on.
            WorkerLost: the worker died, fell silent or passed the deadline; it has been ended.
        """
        assert self._socket is not None
        try:
            self._socket.sendall(encode(message))
        except OSError:
            raise self._lost("a worker closed the connection") from None
        deadline = time.monotonic() + timeout_s
        while True:
            event = self._next_event(deadline, timeout_s)
            if isinstance(event, Done) and event.request_id == message.request_id:
                return event.result
            if isinstance(event, Failed):
                raise event.to_error()
            if on_event is not None and isinstance(event, Progress | Loading):
                on_event(event)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None and not self._killed.is_set()

    def stop(self) -> None:
        """Ask the worker to finish, and end it if it does not."""
        if self.is_alive and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendall(encode(Stop()))
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._process is not None
                self._process.wait(_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End every process of the group, whatever it is doing; may be called from any thread, any number of times."""
        self._killed.set()
        if self._socket is not None:
            # Rank 0 ends itself when its client is gone.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._process is not None and self._process.poll() is None:
            _signal_group(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                _signal_group(self._process.pid, signal.SIGKILL)
                self._process.wait()
        # torchrun starts each rank in a session of its own, out of reach of the signals above.
        for pid in self.ready.pids if self.ready else ():
            if _is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self._runtime, ignore_errors=True)

    def _connect(self, deadline: float) -> None:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise self._lost(f"a worker ended with code {self._process.returncode} while starting")
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                client.connect(self.spec.socket_path)
            except OSError:
                client.close()
                time.sleep(0.1)
                continue
            client.settimeout(0.5)
            self._socket = client
            return
        raise self._lost(f"a worker did not start within {self._startup_timeout_s:g} s")

    def _next_event(self, deadline: float, timeout_s: float) -> Event:
        assert self._socket is not None
        heard = time.monotonic()
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                now = time.monotonic()
                if now > deadline:
                    raise self._lost(f"a worker passed its deadline of {timeout_s:g} s") from None
                if now - heard > self._silence_timeout_s:
                    raise self._lost(f"a worker was silent for {self._silence_timeout_s:g} s") from None
                continue
            except OSError:
                raise self._lost("a worker was stopped") from None
            if not data:
                raise self._lost("a worker died")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        event = decode_event(line)
        if time.monotonic() > deadline:
            raise self._lost(f"a worker passed its deadline of {timeout_s:g} s")
        return event

    def _lost(self, what: str) -> WorkerLost:
        stopped = self._killed.is_set()
        self.kill()
        return WorkerLost("the worker was stopped" if stopped else what, fix=f"Its log: {self.log_path}{self._tail()}")

    def _tail(self) -> str:
        try:
            text = self.log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = [line for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line]
        return f" ({errors[-1].strip()})" if errors else ""


def _signal_group(pid: int, signal_number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal_number)


def _is_ours(pid: int) -> bool:
    """Whether a process is still a worker, and not a later owner of the same number."""
    try:
        return b"cosmos_core.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
