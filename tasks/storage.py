"""The one seam to where results go and inputs come from: a local folder or a bucket, through fsspec.

A file appears under its name whole or not at all: locally it is written beside its place, flushed and renamed; an
object store shows an upload only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from cosmos_core.errors import BadConfig, BadInput, StorageUnavailable
from cosmos_core.hashing import sha256_bytes

__all__ = ["Store", "fetch_input", "open_store"]

_SCHEMES = ("file", "s3")
_MAX_CONFLICTS = 6


@dataclass(frozen=True, slots=True)
class Store:
    """A place for results. Names are relative, with forward slashes, and cannot leave the root."""

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

    def translating(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Turn what libraries raise while they read below a name into errors of our tree."""
        return _translated(self.uri_of(name))

    def publish_file(self, source: Path, name: str, *, content_type: str) -> None:
        """Make a local file appear under `name`, replacing what was there.

        Raises:
            StorageUnavailable: the store refused or did not answer.
        """
        target = self.path_of(name)
        with _translated(self.uri_of(name)):
            if self.is_local:
                _copy_atomically(source, Path(target))
            else:
                self.filesystem.put_file(str(source), target, ContentType=content_type)
                self.filesystem.invalidate_cache()
            size = self.filesystem.size(target)
        if size != source.stat().st_size:
            raise StorageUnavailable(
                f"{self.uri_of(name)} was cut", got=size, expected=f"{source.stat().st_size} bytes"
            )

    def publish_bytes(self, data: bytes, name: str, *, content_type: str) -> None:
        """Make some bytes appear under `name`, replacing what was there."""
        target = self.path_of(name)
        with _translated(self.uri_of(name)):
            if self.is_local:
                _write_atomically(data, Path(target))
            else:
                self.filesystem.pipe_file(target, data, ContentType=content_type)
                self.filesystem.invalidate_cache()

    def publish_new_bytes(self, data: bytes, name: str, *, content_type: str) -> bool:
        """Make some bytes appear under `name` unless something is there already; of several writers one wins.

        Returns:
            Whether `name` holds these bytes now. A writer whose first attempt got through unnoticed is told so on its
            second; two that must not both win therefore write something that is theirs alone.
        """
        target = self.path_of(name)
        with _translated(self.uri_of(name)):
            try:
                if self.is_local:
                    _write_exclusively(data, Path(target))
                else:
                    _put_exclusively(self.filesystem, data, target, content_type)
            except FileExistsError:
                return bytes(self.filesystem.cat_file(target)) == data
        return True

    def list(self, folder: str) -> tuple[str, ...]:
        """Names of all files below a folder, also in folders within it, sorted; none if there is no such folder."""
        path = self.path_of(folder)
        with _translated(self.uri_of(folder)):
            if self.is_local:
                # Not fsspec's `find`: it takes a folder for empty when a file goes while it looks.
                found = [str(file) for file in Path(path).rglob("*") if file.is_file()]
            else:
                found = self.filesystem.find(path)
        names = (file.removeprefix(f"{self.root}/") for file in found)
        return tuple(sorted(name for name in names if not _is_temporary(name)))

    def fetch_file(self, name: str, target: Path) -> None:
        """Copy what lies under `name` to a local file, which appears whole or not at all.

        Raises:
            FileNotFoundError: there is nothing under the name.
            StorageUnavailable: the store did not answer.
        """
        temporary = _temporary(target)
        try:
            with _translated(self.uri_of(name)):
                self.filesystem.get_file(self.path_of(name), str(temporary))
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """What lies under `name`, to be read in pieces.

        Raises:
            FileNotFoundError: there is nothing under the name.
            StorageUnavailable: the store did not answer.
        """
        with _translated(self.uri_of(name)), self.filesystem.open(self.path_of(name), "rb") as file:
            yield file

    def read_bytes(self, name: str) -> bytes | None:
        """Content of a name, or None if there is nothing."""
        with _translated(self.uri_of(name)):
            try:
                return bytes(self.filesystem.cat_file(self.path_of(name)))
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """Bytes under a name, or None if there is nothing."""
        with _translated(self.uri_of(name)):
            try:
                return int(self.filesystem.info(self.path_of(name))["size"])
            except FileNotFoundError:
                return None

    def remove(self, name: str) -> None:
        """Remove a name; nothing happens if it is not there."""
        with _translated(self.uri_of(name)), contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(self.path_of(name))


def open_store(uri: str, *, for_writing: bool = True) -> Store:
    """The store of a local folder or an `s3://` prefix; credentials and endpoint come from the environment.

    Args:
        uri: the place.
        for_writing: make the local folder if it is not there, and make sure that it can be written to.

    Raises:
        BadConfig: the scheme is not supported, or the place cannot be used.
    """
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    if scheme not in _SCHEMES:
        raise BadConfig("unsupported output", got=uri, expected="a local folder or s3://bucket/prefix")
    if scheme == "file":
        uri = str(Path(uri.removeprefix("file://")).absolute())
    with _translated(uri):
        filesystem, root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        if scheme == "file":
            _require_folder(Path(root)) if for_writing else None
        else:
            _require_bucket(filesystem, root.split("/", 1)[0], uri)
    return Store(root=root.rstrip("/"), uri=uri.rstrip("/"), filesystem=filesystem)


def fetch_input(uri: str, folder: Path, *, limit_bytes: int, hosts: Collection[str] = ()) -> Path:
    """A local path with the content of an input; remote ones are copied into `folder`.

    Args:
        uri: local path, `s3://`, or `http(s)://` at one of `hosts`.
        folder: where copies go.
        limit_bytes: larger inputs are refused.
        hosts: names of the HTTP hosts that may be asked.

    Raises:
        BadInput: there is nothing at the address, it is larger than the limit, or its host is not allowed.
        StorageUnavailable: the store did not answer.
    """
    if "://" not in uri or uri.startswith("file://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise BadInput("no such input file", got=uri)
        _require_size(path.stat().st_size, limit_bytes, uri)
        return path
    _require_allowed(uri, hosts)
    target = folder / f"{sha256_bytes(uri.encode())[:16]}{PurePosixPath(urlsplit(uri).path).suffix}"
    with _translated(uri):
        filesystem, remote = fsspec.core.url_to_fs(uri)
        try:
            _require_size(filesystem.info(remote).get("size"), limit_bytes, uri)
            folder.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
            filesystem.get_file(remote, str(temporary))
        except FileNotFoundError:
            raise BadInput("no such input", got=uri) from None
        _require_size(temporary.stat().st_size, limit_bytes, uri)
        temporary.replace(target)
    return target


def _require_allowed(uri: str, hosts: Collection[str]) -> None:
    address = urlsplit(uri)
    if address.scheme in ("http", "https") and address.hostname not in hosts:
        raise BadInput(
            "this host may not be asked for inputs",
            got=address.hostname,
            expected=", ".join(hosts) or "no host",
            fix="Add it to input_hosts in the configuration",
        )


def _require_bucket(filesystem: Any, bucket: str, uri: str) -> None:
    # Not `exists`: that one takes an endpoint that is down for a bucket that is not there.
    try:
        filesystem.info(bucket)
    except FileNotFoundError:
        raise BadConfig("no such bucket", got=uri, fix="Create the bucket, or correct --output") from None


def _require_size(size: int | None, limit_bytes: int, uri: str) -> None:
    if size is not None and size > limit_bytes:
        raise BadInput(f"{uri} is too large", got=f"{size} bytes", expected=f"at most {limit_bytes}")


def _require_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfig("the output folder cannot be made", got=f"{root} ({error.strerror})") from error
    if not os.access(root, os.W_OK):
        raise BadConfig("the output folder is not writable", got=root)


def _checked(name: str) -> str:
    parts = PurePosixPath(name).parts
    assert parts, "no name"
    assert not name.startswith("/"), f"unsafe name {name!r}"
    assert ".." not in parts, f"unsafe name {name!r}"
    return name


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turn what a file system raises into our own tree: wrong requests are not retried, the rest is."""
    try:
        yield
    except PermissionError as error:
        raise BadConfig("no permission", got=uri, fix="Check the credentials in the environment") from error
    except FileNotFoundError:
        raise
    except (OSError, TimeoutError) as error:
        raise StorageUnavailable(f"{uri} did not answer", got=f"{type(error).__name__}: {error}") from error
    except Exception as error:
        # botocore's errors share no base with the standard library, and importing it here would tie every local
        # run to it.
        if type(error).__module__.split(".")[0] not in {"botocore", "aiobotocore", "aiohttp"}:
            raise
        if type(error).__name__ in {"NoCredentialsError", "PartialCredentialsError"}:
            raise BadConfig("no credentials", got=uri, fix="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from error
        raise StorageUnavailable(f"{uri} did not answer", got=f"{type(error).__name__}: {error}") from error


def _copy_atomically(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    with source.open("rb") as reader, temporary.open("wb") as writer:
        while chunk := reader.read(1 << 22):
            writer.write(chunk)
        _flush(writer)
    temporary.replace(target)


def _write_atomically(data: bytes, target: Path) -> None:
    temporary = _temporary(target)
    with temporary.open("wb") as writer:
        writer.write(data)
        _flush(writer)
    temporary.replace(target)


def _write_exclusively(data: bytes, target: Path) -> None:
    # A link, unlike opening with O_EXCL, makes the name appear together with the whole content.
    temporary = _temporary(target)
    try:
        with temporary.open("wb") as writer:
            writer.write(data)
            _flush(writer)
        os.link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _put_exclusively(filesystem: Any, data: bytes, target: str, content_type: str) -> None:
    """Put with `If-None-Match: *`, so that the store itself refuses the second writer."""
    for attempt in range(_MAX_CONFLICTS):
        try:
            filesystem.pipe_file(target, data, mode="create", ContentType=content_type)
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


def _temporary(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")


def _is_temporary(name: str) -> bool:
    last = PurePosixPath(name).name
    return last.startswith(".") and last.endswith(".tmp")


def _flush(writer: Any) -> None:
    writer.flush()
    os.fsync(writer.fileno())
