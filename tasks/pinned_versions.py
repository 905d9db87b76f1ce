"""Registry references of a run, resolved once: a run that goes on keeps its versions although an alias has moved.

Below the run's output, under a key made of its manifest and configuration:

    versions/<key>/<reference>.json     what the reference meant, written once
    versions/<key>/runs/<run id>.json   the runs that used it

They hold until a run that used them has written `results.parquet`: the next run over that output removes them, and
the same command then takes what the aliases mean at that time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import CheckpointMismatch
from cosmos_core.hashing import sha256_json
from tasks.records import RESULTS_NAME
from tasks.registry import Registry
from tasks.registry_documents import RegisteredVersion, parse_reference
from tasks.storage import Store

__all__ = ["PinnedVersions"]

_FOLDER = "versions"
_JSON = "application/json"


class _Pin(BaseModel):
    """What one reference meant when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str
    version: str
    sha256: str
    pinned_at: datetime
    run_id: str


class PinnedVersions:
    """The versions that one run uses."""

    def __init__(self, registry: Registry, store: Store, *, run_id: str, manifest_sha256: str, config: object) -> None:
        """Forget the pins of finished runs, and join those of the run that this one goes on with.

        Args:
            registry: where references are looked up.
            store: output of the run.
            run_id: this execution.
            manifest_sha256: content of the manifest.
            config: JSON-ready run configuration.
        """
        self._registry = registry
        self._store = store
        self._run_id = run_id
        self._folder = f"{_FOLDER}/{sha256_json([manifest_sha256, config])[:16]}"
        _forget_finished(store)
        store.publish_new_bytes(b"{}", f"{self._folder}/runs/{run_id}.json", content_type=_JSON)

    def resolve(self, reference: str) -> RegisteredVersion:
        """The version that a reference means for this run.

        Raises:
            BadRequest, CheckpointMissing: see `Registry.resolve`.
            CheckpointMismatch: the registry no longer holds what was pinned.
        """
        parsed = parse_reference(reference)
        name = f"{self._folder}/{str(parsed).replace(':', '@')}.json"
        data = self._store.read_bytes(name)
        if data is None:
            version = self._registry.resolve(reference)
            pin = _Pin(
                reference=reference,
                version=version.id,
                sha256=version.sha256,
                pinned_at=datetime.now(UTC),
                run_id=self._run_id,
            )
            data = pin.model_dump_json(indent=2).encode()
            if self._store.publish_new_bytes(data, name, content_type=_JSON):
                return version
            data = self._store.read_bytes(name) or data
        return self._pinned(_Pin.model_validate_json(data))

    def _pinned(self, pin: _Pin) -> RegisteredVersion:
        version = self._registry.resolve(pin.version)
        if version.sha256 != pin.sha256:
            raise CheckpointMismatch(
                f"the registry holds another {pin.version} than when this run began",
                got=f"sha256 {version.sha256}",
                expected=pin.sha256,
                fix="Use the registry that the run began with, or another --output",
            )
        return version


def _forget_finished(store: Store) -> None:
    """Remove the pins that a finished run used; its marker goes last, so that a broken removal is taken up again."""
    names = store.list(_FOLDER)
    if not names or (run_id := _finished_run(store)) is None:
        return
    folders = {PurePosixPath(name).parent.parent for name in names if name.endswith(f"/runs/{run_id}.json")}
    for folder in folders:
        kept = [name for name in names if name.startswith(f"{folder}/")]
        for name in sorted(kept, key=lambda name: "/runs/" in name):
            store.remove(name)


def _finished_run(store: Store) -> str | None:
    """The run that wrote the results table, or None if there is no table with rows."""
    data = store.read_bytes(RESULTS_NAME)
    if data is None:
        return None
    runs = pq.read_table(pa.BufferReader(data), columns=["run_id"]).column("run_id")
    return str(runs[0].as_py()) if len(runs) else None
