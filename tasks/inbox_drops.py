"""Files dropped into an inbox: which of them nobody has taken yet, and the receipt of each that was.

A drop is a file name with one version of its content. Written again, even with the same bytes, it is another drop: who
repairs the frames of a refused manifest only has to copy it there once more.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from cosmos_core.hashing import sha256_json
from tasks.manifest_formats import format_of_suffix
from tasks.storage import Store
from tasks.storage_errors import retried

__all__ = ["Drop", "Outcome", "waiting_drops", "write_receipt"]

Outcome = Literal["received", "refused"]


@dataclass(frozen=True, slots=True, order=True)
class Drop:
    """One version of a file in the inbox."""

    name: str
    version: str
    """Another text after every write."""
    age_s: float | None
    """Since it was written, where a file can be seen before it is whole: on a file system, not in a bucket."""

    @property
    def id(self) -> str:
        return sha256_json([self.name, self.version])[:32]


def waiting_drops(inbox: Store, *, settle_s: float) -> tuple[tuple[Drop, ...], tuple[Drop, ...]]:
    """Manifests at the top of an inbox that have no receipt: those to take, and those that may still be being written.

    Hidden files and files with other suffixes than a manifest's are no manifests.

    Args:
        settle_s: a local file that was written to within this time is left alone.

    Raises:
        BadConfig, StorageUnavailable: the inbox cannot be listed.
    """
    drops = [
        drop for drop in _listed(inbox) if not drop.name.startswith(".") and format_of_suffix(drop.name) is not None
    ]
    if not drops:
        return (), ()
    outcomes: tuple[Outcome, ...] = ("received", "refused")
    known = {PurePosixPath(name).stem for outcome in outcomes for name in inbox.list(outcome)}
    new = sorted(drop for drop in drops if drop.id not in known)
    fresh = tuple(drop for drop in new if drop.age_s is not None and 0 <= drop.age_s < settle_s)
    return tuple(drop for drop in new if drop not in fresh), fresh


def write_receipt(inbox: Store, drop: Drop, outcome: Outcome, **facts: Any) -> bool:
    """Note what became of a drop, so that it is not looked at again.

    Returns:
        Whether this caller noted it; of several at once one is told so.
    """
    receipt = {
        "name": drop.name,
        "version": drop.version,
        **facts,
        "at": datetime.now(UTC).isoformat(),
        "by": uuid.uuid4().hex,  # of two writers at once exactly one finds its own
    }
    data = json.dumps(receipt, indent=2, ensure_ascii=False).encode()
    return inbox.publish_new_bytes(data, f"{outcome}/{drop.id}.json", content_type="application/json")


def _listed(inbox: Store) -> list[Drop]:
    try:
        entries = retried(inbox.uri, lambda: list(inbox.filesystem.ls(inbox.root, detail=True)))
    except FileNotFoundError:
        return []  # a prefix that nothing was put under yet
    return [_drop(entry) for entry in entries if entry["type"] == "file" and PurePosixPath(entry["name"]).name]


def _drop(entry: dict[str, Any]) -> Drop:
    name = PurePosixPath(entry["name"]).name
    if (written := entry.get("mtime")) is not None:
        return Drop(name, f"{entry['size']} bytes at {written!r}", age_s=time.time() - written)
    return Drop(name, f"{entry.get('ETag')} at {entry.get('LastModified')}", age_s=None)
