"""Leases: which run may use which device of this machine, and which processes are on it.

Two locks for each device, both of which the kernel opens when their holder dies:

    DEVICE.run     held by the run that uses the device, from its first scenario on it to its end
    DEVICE.worker  held by the worker process on the device itself, whoever it works for

A run that takes a device needs the first, and the second must be free or held by a worker that it can take over. So two
runs never share a device, the device of a run that was killed is free at once, and it is not given away while a process
of a dying worker still has its memory.
"""

from __future__ import annotations

import getpass
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cosmos_core.errors import BadConfig
from cosmos_core.file_lock import FileLock, lock_holder
from tasks.devices import Device

__all__ = ["MachineState", "RunLease", "describe_users", "occupants"]

_RUN, _WORKER = ".run", ".worker"


class MachineState:
    """Where the locks and the running workers of this machine are found.

    Every run on a machine must use the same place; containers that share GPUs need it as a shared folder. It is the
    environment's `CROSSROADS_STATE`, or below /tmp, which every user has.

    Raises:
        BadConfig: another user could put something into the folder of this user's workers.
    """

    def __init__(self, root: Path | None = None) -> None:
        place = root or (Path(given) if (given := os.environ.get("CROSSROADS_STATE")) else None)
        # Not tempfile.gettempdir(): TMPDIR may differ from run to run.
        self.locks = place / "locks" if place else Path("/tmp/crossroads-locks")
        self.workers = place / f"workers-{os.getuid()}" if place else Path(f"/tmp/crossroads-workers-{os.getuid()}")
        if not self.locks.is_dir():
            self.locks.mkdir(parents=True, exist_ok=True)
            self.locks.chmod(0o1777)
        self.workers.mkdir(mode=0o700, exist_ok=True)
        _require_private(self.workers)

    def run_lock(self, device: Device) -> Path:
        return self.locks / f"{_file_name(device.key)}{_RUN}"

    def worker_lock(self, device: Device) -> Path:
        return self.locks / f"{_file_name(device.key)}{_WORKER}"


class RunLease:
    """A run's right to use some devices together; ends with `release` or with this process."""

    def __init__(self, locks: Sequence[FileLock]) -> None:
        self._locks = locks

    @classmethod
    def take(cls, state: MachineState, devices: Sequence[Device], *, owner: str) -> RunLease | None:
        """Lease all of the devices, or return None if another run has one of them.

        Args:
            owner: what the run calls itself, for those who wait for it.
        """
        locks: list[FileLock] = []
        for device in devices:
            lock = FileLock.take(state.run_lock(device), _about(owner))
            if lock is None:
                cls(locks).release()
                return None
            locks.append(lock)
        return cls(locks)

    def keep_fresh(self) -> None:
        """Show that the locks are in use, so that nothing that tidies /tmp removes them."""
        for lock in self._locks:
            for path in (lock.path, lock.path.with_suffix(_WORKER)):
                with suppress(OSError):
                    os.utime(path)

    def release(self) -> None:
        """Give the devices back; more than once does nothing."""
        for lock in self._locks:
            lock.release()


def occupants(state: MachineState, devices: Sequence[Device]) -> dict[str, dict[str, Any]]:
    """What the workers on some devices said of themselves, by the device's key; free devices are left out."""
    found = {device.key: lock_holder(state.worker_lock(device)) for device in devices}
    return {key: about for key, about in found.items() if about is not None}


def describe_users(state: MachineState, devices: Sequence[Device]) -> str:
    """Who has the devices, as one line for people."""
    parts = []
    for device in devices:
        about = lock_holder(state.run_lock(device))
        what = "used" if about is not None else "occupied"
        about = about if about is not None else lock_holder(state.worker_lock(device))
        if about is not None:
            who = ", ".join(f"{name} {about[name]}" for name in ("owner", "user", "pid", "since") if name in about)
            parts.append(f"{device.name} is {what} by {who or 'an unknown process'}")
    return "; ".join(parts)


def _about(owner: str) -> dict[str, Any]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"owner": owner, "user": _user_name(), "pid": os.getpid(), "since": since}


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def _file_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", key)


def _require_private(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadConfig(
            f"{folder} is not private, so workers cannot be trusted there",
            got=f"owner {found.st_uid}, mode {stat.filemode(found.st_mode)}",
            expected=f"a folder of user {os.getuid()} with mode drwx------",
            fix="Remove it, or point CROSSROADS_STATE elsewhere",
        )
