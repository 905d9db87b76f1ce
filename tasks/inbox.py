"""An inbox: the place that manifests are handed in at, and what is remembered of each.

<name>.parquet              dropped by whoever has work; watched at this level only, and never changed or removed
manifests/<sha256>.parquet  the copy that runs read; the content is in the name, so it never changes
started/<key>.json          the run of an order (`tasks.run_request`)
received/<id>.json          a dropped file that has its run
refused/<id>.json           a dropped file that is no manifest, and why
results/<sha256>/...        outputs, unless they are sent elsewhere
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from cosmos_core.errors import BadManifest, StorageUnavailable
from cosmos_core.hashing import sha256_bytes
from tasks.manifest_formats import format_of_suffix
from tasks.storage import Store

__all__ = ["DEPLOYMENT", "find_inbox", "keep_manifest", "results_of"]

DEPLOYMENT = "generate-scenarios/generate"
"""The deployment for runs on demand (prefect.yaml)."""


def find_inbox(option: str | None) -> str:
    """Address of the inbox: the option, else CROSSROADS_INBOX, else the folder `inbox`."""
    return option or os.environ.get("CROSSROADS_INBOX") or "inbox"


def keep_manifest(inbox: Store, name: str, data: bytes, *, sha256: str) -> str:
    """Put the immutable copy of a checked manifest into the inbox; doing it again changes nothing.

    Args:
        name: file name that it came with; its suffix is kept.
        sha256: of the content that was checked.

    Returns:
        Address of the copy.

    Raises:
        BadManifest: the file changed after it was checked.
        StorageUnavailable: the inbox did not answer, or the copy there is damaged.
    """
    if sha256_bytes(data) != sha256:
        raise BadManifest("the manifest changed while it was read", got=name, fix="Try again when it is complete")
    suffix = PurePosixPath(name).suffix.lower() if format_of_suffix(name) else ""
    copy = f"manifests/{sha256}{suffix}"
    if not inbox.publish_new_bytes(data, copy, content_type="application/octet-stream"):
        raise StorageUnavailable(
            "another content lies under this hash", got=inbox.uri_of(copy), fix="Remove the damaged file"
        )
    return inbox.uri_of(copy)


def results_of(place: str, sha256: str) -> str:
    """Where the results of a manifest go below a folder or s3:// prefix."""
    return f"{place.rstrip('/')}/{sha256[:16]}"
