"""A file, or a folder of files, by content: what every version comes down to."""

from __future__ import annotations

import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from cosmos_core.hashing import sha256_file, sha256_json

__all__ = ["FileVersion", "hash_path"]


class FileVersion(BaseModel):
    """A file, or a folder of files, by content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    sha256: str
    """Of a folder: the hash of the JSON object that gives each relative name its file's hash."""
    num_bytes: int
    reference: str | None = None
    """How the configuration asked for it, if it came from the registry: `its-base@production`."""
    version: str | None = None
    """What that meant when the run began: `its-base:v3`."""
    parent_sha256: str | None = None
    """What it was trained from, if the registry knows."""


def hash_path(path: Path, cache: Path) -> FileVersion:
    """Hash a file or folder; what was hashed before is looked up in `cache`.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        parts = {file.relative_to(path).as_posix(): hash_path(file, cache) for file in files}
        digest = sha256_json({name: part.sha256 for name, part in parts.items()})
        return FileVersion(path=str(path), sha256=digest, num_bytes=sum(part.num_bytes for part in parts.values()))
    status = path.stat()
    return FileVersion(path=str(path), sha256=_hash_file(path, cache), num_bytes=status.st_size)


def _hash_file(path: Path, cache: Path) -> str:
    """SHA-256 of a file, remembered by path, size, inode and time of change: a 14B checkpoint takes a minute."""
    status = path.stat()
    identity = [str(path.resolve()), status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    entry = cache / sha256_json(identity)
    if entry.exists():
        return entry.read_text()
    digest = sha256_file(path)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = entry.with_suffix(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(digest)
    temporary.replace(entry)
    return digest
