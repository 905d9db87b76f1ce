"""Model files where the registry says they lie: used in place, or copied once from a bucket to this machine."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path, PurePosixPath

from cosmos_core.errors import AdapterMismatch, CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_file
from tasks.file_versions import FileVersion, hash_path
from tasks.registry_documents import Kind, RegisteredVersion
from tasks.storage import open_store

__all__ = ["bring_model", "fetch_model", "is_remote"]


def is_remote(location: str) -> bool:
    return location.startswith("s3://")


def bring_model(version: RegisteredVersion, reference: str, *, home: Path) -> FileVersion:
    """The file of a registered version on this machine, verified.

    Args:
        version: what is wanted.
        reference: how it was asked for, for the record.
        home: copies go to `models/<sha256>/` below it.

    Raises:
        CheckpointMissing: nothing lies at the registered place.
        CheckpointMismatch, AdapterMismatch: something else lies there.
        StorageUnavailable: the bucket did not answer.
    """
    path = Path(version.location)
    if is_remote(version.location):
        path = home / "models" / version.sha256 / PurePosixPath(version.location).name
        if not path.exists() or hash_path(path, home / "hashes").sha256 != version.sha256:
            path = fetch_model(version.location, home / "models", version=version)
    if not path.exists():
        raise CheckpointMissing(
            f"{version.id} is not where it was registered", got=path, fix="Put the file back, or register it anew"
        )
    file = hash_path(path, home / "hashes")
    _require_content(version, file.sha256)
    known = {"reference": reference, "version": version.id, "parent_sha256": version.parent_sha256}
    return file.model_copy(update=known)


def fetch_model(location: str, folder: Path, *, version: RegisteredVersion | None = None) -> Path:
    """Copy an object to `<folder>/<sha256>/<its name>`, where it appears whole and, given a version, verified.

    Raises:
        CheckpointMissing: there is no such object.
        CheckpointMismatch, AdapterMismatch: its content is not the version's.
        StorageUnavailable: the bucket did not answer.
    """
    parent, _, name = location.rpartition("/")
    incoming = folder / f".incoming.{uuid.uuid4().hex}"
    try:
        try:
            open_store(parent, for_writing=False).fetch_file(name, incoming / name)
        except FileNotFoundError:
            raise CheckpointMissing("no such model file", got=location) from None
        digest = sha256_file(incoming / name)
        if version:
            _require_content(version, digest)
        target = folder / digest / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (incoming / name).replace(target)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return target


def _require_content(version: RegisteredVersion, sha256: str) -> None:
    if sha256 != version.sha256:
        mismatch = AdapterMismatch if version.kind is Kind.ADAPTER else CheckpointMismatch
        raise mismatch(
            f"{version.location} was changed since it was registered as {version.id}",
            got=f"sha256 {sha256}",
            expected=version.sha256,
            fix="Put the registered file back, or register this one as a new version",
        )
