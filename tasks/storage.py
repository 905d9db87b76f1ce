"""The one seam to where results go: a local folder or a bucket, through fsspec.

A file appears under its name whole or not at all: locally it is written beside its place, flushed and renamed; an
object store shows an upload only when it is complete. What was uploaded is verified by its hash. Whatever may pass is
tried again, and doing the same again leaves the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec

from cosmos_core.errors import BadConfig, BadRequest
from tasks.atomic_files import (
    copy_atomically,
    is_temporary,
    temporary_beside,
    write_atomically,
    write_exclusively,
)
from tasks.manifest_source import without_credentials
from tasks.storage_credentials import s3_options
from tasks.storage_errors import retried, translated
from tasks.uploads import Digest, put_exclusively, verify_upload

__all__ = ["Store", "open_store"]

_SCHEMES = ("file", "s3")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class Store:
    """A place for results. Names are relative, with forward slashes, and cannot leave the root.

    Every method raises `StorageUnavailable` when the store did not answer after some attempts, and `BadConfig` when it
    refuses.
    """

    root: str
    """Root with its scheme removed, as the file system wants it."""
    uri: str
    """Root as the user gave it, for links."""
    filesystem: Any

    @property
    def is_local(self) -> bool:
        return "file" in _protocols(self.filesystem)

    def uri_of(self, name: str) -> str:
        """Address of a name, for records and people."""
        return f"{self.uri}/{_checked(name)}"

    def path_of(self, name: str) -> str:
        """A name as the file system wants it, for libraries that read files themselves."""
        return f"{self.root}/{_checked(name)}"

    def below(self, folder: str) -> Store:
        """The store of a folder in this one; nothing is made or asked."""
        return Store(root=self.path_of(folder), uri=self.uri_of(folder), filesystem=self.filesystem)

    def translating(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Turn what libraries raise while they read below a name into errors of our tree."""
        return translated(self.uri_of(name))

    def publish_file(self, source: Path, name: str, *, content_type: str) -> None:
        """Make a local file appear under `name`, replacing what was there, and verify it."""
        target, digest = self.path_of(name), Digest.of_file(source)

        def publish() -> None:
            if self.is_local:
                copy_atomically(source, Path(target), sha256=digest.sha256)
                return
            self.filesystem.put_file(str(source), target, ContentType=content_type)
            self.filesystem.invalidate_cache()
            verify_upload(self.filesystem, target, digest)

        retried(self.uri_of(name), publish)

    def publish_bytes(self, data: bytes, name: str, *, content_type: str) -> None:
        """Make some bytes appear under `name`, replacing what was there, and verify them."""
        target, digest = self.path_of(name), Digest.of_bytes(data)

        def publish() -> None:
            if self.is_local:
                write_atomically(data, Path(target))
                return
            self.filesystem.pipe_file(target, data, ContentType=content_type)
            self.filesystem.invalidate_cache()
            verify_upload(self.filesystem, target, digest)

        retried(self.uri_of(name), publish)

    def publish_new_bytes(self, data: bytes, name: str, *, content_type: str) -> bool:
        """Make some bytes appear under `name` unless something is there already; of several writers one wins.

        Returns:
            Whether `name` holds these bytes now. A writer whose first attempt got through unnoticed is told so on its
            second; two that must not both win therefore write something that is theirs alone.
        """
        target = self.path_of(name)

        def publish() -> bool:
            try:
                if self.is_local:
                    write_exclusively(data, Path(target))
                else:
                    put_exclusively(self.filesystem, data, target, content_type)
                    verify_upload(self.filesystem, target, Digest.of_bytes(data))
            except FileExistsError:
                return bytes(self.filesystem.cat_file(target)) == data
            return True

        return retried(self.uri_of(name), publish)

    def list(self, folder: str) -> tuple[str, ...]:
        """Names of all files below a folder, also in folders within it, sorted; none if there is no such folder."""
        path = self.path_of(folder)

        def find() -> list[str]:
            if self.is_local:
                # Not fsspec's `find`: it takes a folder for empty when a file goes while it looks.
                return [str(file) for file in Path(path).rglob("*") if file.is_file()]
            return list(self.filesystem.find(path))

        names = (file.removeprefix(f"{self.root}/") for file in retried(self.uri_of(folder), find))
        return tuple(sorted(name for name in names if not is_temporary(name)))

    def fetch_file(self, name: str, target: Path) -> None:
        """Copy what lies under `name` to a local file, which appears whole or not at all.

        Raises:
            FileNotFoundError: there is nothing under the name.
        """

        def fetch() -> None:
            temporary = temporary_beside(target)
            try:
                self.filesystem.get_file(self.path_of(name), str(temporary))
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)

        retried(self.uri_of(name), fetch)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """What lies under `name`, to be read in pieces; not tried again by itself.

        Raises:
            FileNotFoundError: there is nothing under the name.
        """
        with translated(self.uri_of(name)), self.filesystem.open(self.path_of(name), "rb") as file:
            yield file

    def read_bytes(self, name: str) -> bytes | None:
        """Content of a name, or None if there is nothing."""
        try:
            return retried(self.uri_of(name), lambda: bytes(self.filesystem.cat_file(self.path_of(name))))
        except FileNotFoundError:
            return None

    def size(self, name: str) -> int | None:
        """Bytes under a name, or None if there is nothing."""
        try:
            return retried(self.uri_of(name), lambda: int(self.filesystem.info(self.path_of(name))["size"]))
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove a name; nothing happens if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            retried(self.uri_of(name), lambda: self.filesystem.rm_file(self.path_of(name)))


def open_store(uri: str, *, for_writing: bool = True) -> Store:
    """The store of a local folder or an `s3://` prefix; credentials come as `tasks.storage_credentials` says.

    Args:
        uri: the place.
        for_writing: make the local folder if it is not there, and make sure that it can be written to.

    Raises:
        BadConfig: the scheme is not supported, the address carries credentials, or the place cannot be used.
    """
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    if without_credentials(uri) != uri:
        raise BadConfig(
            "an address carries credentials", got=without_credentials(uri), fix="Put them into the environment"
        )
    if scheme not in _SCHEMES or "::" in uri:
        raise BadConfig("unsupported output", got=uri, expected="a local folder or s3://bucket/prefix")
    if scheme == "file":
        uri = str(Path(uri.removeprefix("file://")).absolute())
    options = s3_options() if scheme == "s3" else {}
    with translated(uri):
        filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
        if scheme == "file":
            _require_folder(Path(root)) if for_writing else None
        else:
            _require_bucket(filesystem, root.split("/", 1)[0], uri)
    return Store(root=root.rstrip("/"), uri=uri.rstrip("/"), filesystem=filesystem)


def _require_bucket(filesystem: Any, bucket: str, uri: str) -> None:
    # Not `exists`: that one takes an endpoint that is down for a bucket that is not there.
    try:
        filesystem.info(bucket)
    except FileNotFoundError:
        raise BadConfig("no such bucket", got=uri, fix="Create the bucket, or correct --output") from None


def _require_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfig("the output folder cannot be made", got=f"{root} ({error.strerror})") from error
    if not os.access(root, os.W_OK):
        raise BadConfig("the output folder is not writable", got=root)


def _checked(name: str) -> str:
    """A name that stays below the root, whatever reads it: names may come from files that others can write."""
    if any(part in ("", ".", "..") for part in name.split("/")) or _NOT_IN_NAMES.search(name):
        raise BadRequest("this name would leave its store", got=repr(name), expected="a relative name such as a/b.mp4")
    return name


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
