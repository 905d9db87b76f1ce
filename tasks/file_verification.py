"""Whether the videos of an output are those that its records speak of, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.audit_verification import verify_audit
from tasks.quarantine_expiry import is_expired
from tasks.records import Record, read_record
from tasks.storage import Store

__all__ = ["Finding", "outputs_below", "verify_output"]

_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was recorded."""

    output: str
    """Address of the output."""
    name: str
    """Of the file or log below it."""
    problem: str


def outputs_below(place: Store) -> list[Store]:
    """The outputs of runs at a place: itself, if it has records, and every folder directly below that has.

    Raises:
        BadConfig, StorageUnavailable: the place cannot be listed.
    """
    try:
        with place.translating("records"):
            entries = place.filesystem.ls(place.root, detail=True)
    except FileNotFoundError:
        return []
    folders = sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")
    candidates = [place, *(place.below(folder) for folder in folders)]
    return [store for store in candidates if store.list("records")]


def verify_output(store: Store) -> tuple[int, list[Finding]]:
    """Read every video that a record speaks of, and the audit log.

    Returns:
        Videos that were read, and what was found wrong.

    Raises:
        StorageUnavailable: the store did not answer.
    """
    findings = [Finding(store.uri, "audit", problem) for problem in verify_audit(store).problems]
    num_videos = 0
    for name in store.list("records"):
        record = read_record(store, name.removeprefix("records/").removesuffix(".json"))
        if record is None or record.output is None or is_expired(store, record):
            continue  # a record that cannot be read is among the log's problems
        num_videos += 1
        findings += [Finding(store.uri, record.output.video, problem) for problem in _problems(store, record)]
    return num_videos, findings


def _problems(store: Store, record: Record) -> Iterator[str]:
    assert record.output is not None
    found = _sha256(store, record.output.video)
    if found is None:
        yield "is missing"
    elif found != record.output.sha256:
        yield f"was changed: sha256 {found}, recorded {record.output.sha256}"


def _sha256(store: Store, name: str) -> str | None:
    digest = hashlib.sha256()
    try:
        with store.open(name) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
