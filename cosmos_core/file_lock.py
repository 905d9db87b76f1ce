"""A lock on this machine that its holder's death opens: `flock` on a small file.

The kernel ties the lock to the open file, so it ends with the process that took it, whatever ended that, and nothing
stale can be left. The file says who holds the lock, for people to read; only the lock itself counts. Locks may be
shared by several users, so their files are readable and writable for all, and what stands in them is never trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["FileLock", "lock_holder"]

_FOR_ALL = 0o666
_MAX_ABOUT_BYTES = 4096


class FileLock:
    """An exclusive lock, held from `take` until `release` or the end of this process.

    Children do not inherit it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, about: dict[str, Any]) -> FileLock | None:
        """Take the lock, or return None if somebody else holds it.

        Args:
            path: the lock's file, made if there is none; its folder must exist.
            about: who takes it and why, JSON-ready.
        """
        while True:
            descriptor = _open(path)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if _is_file_of(descriptor, path):
                break
            os.close(descriptor)  # somebody removed the file in between: a lock on it excludes nobody
        lock = cls(path, descriptor)
        lock.describe(about)
        return lock

    def describe(self, about: dict[str, Any]) -> None:
        """Say anew who holds the lock and why."""
        assert self._descriptor is not None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(about).encode()[:_MAX_ABOUT_BYTES], 0)

    def release(self) -> None:
        """Give the lock back; more than once does nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def lock_holder(path: Path) -> dict[str, Any] | None:
    """What the holder of a lock said of itself, or None if nobody holds it. Empty if it said nothing readable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        # A shared lock, so that two who ask do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        # Linux refuses O_CREAT on another user's file in a folder like /tmp, so the file is opened before it is made.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, _FOR_ALL)
            os.fchmod(descriptor, _FOR_ALL)
            return descriptor


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(descriptor, _MAX_ABOUT_BYTES, 0))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
