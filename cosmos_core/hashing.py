"""Content hashes: the identity of every file, record and job."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

__all__ = ["canonical_json", "sha256_bytes", "sha256_file", "sha256_json"]

_CHUNK_BYTES = 1 << 22


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: object) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())
