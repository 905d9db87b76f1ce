"""Local files that appear under their name whole, verified and on the disk, or not at all.

Each is written beside its place under a hidden name, flushed, read back, and renamed or linked. A process that is
killed leaves at most such a hidden file, which nothing takes for a result.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from cosmos_core.hashing import sha256_bytes, sha256_file

__all__ = ["copy_atomically", "is_temporary", "temporary_beside", "write_atomically", "write_exclusively"]

_CHUNK_BYTES = 1 << 22


def copy_atomically(source: Path, target: Path, *, sha256: str) -> None:
    """Make a copy of a file appear, replacing what was there.

    Raises:
        OSError: it could not be written, or what was written does not have this hash.
    """

    def copy(writer: IO[bytes]) -> None:
        with source.open("rb") as reader:
            while chunk := reader.read(_CHUNK_BYTES):
                writer.write(chunk)

    _publish(copy, target, os.replace, sha256)


def write_atomically(data: bytes, target: Path) -> None:
    """Make some bytes appear as a file, replacing what was there.

    Raises:
        OSError: they could not be written, or are not what is on the disk.
    """
    _publish(lambda writer: writer.write(data), target, os.replace, sha256_bytes(data))


def write_exclusively(data: bytes, target: Path) -> None:
    """Make some bytes appear as a file.

    Raises:
        FileExistsError: there is one already.
        OSError: they could not be written, or are not what is on the disk.
    """
    # A link, unlike opening with O_EXCL, makes the name appear together with the whole content.
    _publish(lambda writer: writer.write(data), target, os.link, sha256_bytes(data))


def temporary_beside(target: Path) -> Path:
    """A hidden name beside a file that is yet to come; its folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a name is such a hidden one."""
    last = PurePosixPath(name).name
    return last.startswith(".") and last.endswith(".tmp")


def _publish(
    write: Callable[[IO[bytes]], object], target: Path, place: Callable[[Path, Path], None], sha256: str
) -> None:
    temporary = temporary_beside(target)
    try:
        with temporary.open("wb") as writer:
            write(writer)
            writer.flush()
            os.fsync(writer.fileno())
        if (written := sha256_file(temporary)) != sha256:
            raise OSError(f"{target} was changed on its way: sha256 {written} instead of {sha256}")
        place(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the new name itself to the disk: a record must not outlive the video that it vouches for."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
