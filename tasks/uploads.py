"""Uploads to a bucket: the proof that one arrived whole, and those that only one of several writers wins."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_core.errors import StorageUnavailable
from cosmos_core.hashing import sha256_bytes, sha256_file

__all__ = ["Digest", "put_exclusively", "verify_upload"]

_MAX_CONFLICTS = 6
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies some content: for us, and for a bucket."""

    num_bytes: int
    sha256: str
    md5: str

    @classmethod
    def of_bytes(cls, data: bytes) -> Digest:
        return cls(len(data), sha256_bytes(data), hashlib.md5(data, usedforsecurity=False).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Digest:
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        return cls(path.stat().st_size, sha256_file(path), md5)


def verify_upload(filesystem: Any, path: str, digest: Digest) -> None:
    """Make sure that an object holds what was sent there.

    A bucket tells the MD5 of what came in one piece and lies there without a key of the customer's; in every other case
    the content is read back.

    Raises:
        StorageUnavailable: it holds something else.
    """
    info = filesystem.info(path)
    if info["size"] != digest.num_bytes:
        raise StorageUnavailable(f"{path} was cut", got=f"{info['size']} bytes", expected=digest.num_bytes)
    if str(info.get("ETag", "")).strip('"') == digest.md5:
        return
    stored = hashlib.sha256()
    with filesystem.open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            stored.update(chunk)
    if stored.hexdigest() != digest.sha256:
        got = f"sha256 {stored.hexdigest()}"
        raise StorageUnavailable(f"{path} was changed on its way", got=got, expected=digest.sha256)


def put_exclusively(filesystem: Any, data: bytes, path: str, content_type: str) -> None:
    """Put with `If-None-Match: *`, so that the store itself refuses the second writer.

    Raises:
        FileExistsError: there is something already.
    """
    for attempt in range(_MAX_CONFLICTS):
        try:
            filesystem.pipe_file(path, data, mode="create", ContentType=content_type)
        except OSError as error:
            if not _is_undecided(error) or attempt == _MAX_CONFLICTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
        else:
            break
    filesystem.invalidate_cache()


def _is_undecided(error: OSError) -> bool:
    """Whether S3 saw two conditional writes at once and asks to repeat this one."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") in {"ConditionalRequestConflict", "OperationAborted"}
