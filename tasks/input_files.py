"""Inputs on this machine: local ones where they lie, remote ones copied, bounded in size and named by their content.

An address over HTTP is asked only at hosts that the operator allows, and so is every address that it redirects to: a
manifest must not make this machine call others.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

import fsspec
import httpx

from cosmos_core.errors import BadInput, StorageUnavailable
from cosmos_core.hashing import sha256_file
from tasks.atomic_files import temporary_beside
from tasks.storage_credentials import s3_options
from tasks.storage_errors import retried

__all__ = ["fetch_input"]

_MAX_REDIRECTS = 5
_TIMEOUT_S = 30.0
"""Without a byte."""
_DEADLINE_S = 900.0
"""For one whole file: a host that sends a byte now and then must not hold a run."""
_MAY_PASS = frozenset({408, 425, 429})


def fetch_input(uri: str, folder: Path, *, limit_bytes: int, hosts: Collection[str] = ()) -> Path:
    """A local path with the content of an input; remote ones are copied into `folder`.

    Args:
        uri: local path, `s3://`, or `http(s)://` at one of `hosts`.
        folder: where copies go. Their names are the beginning of their SHA-256, so a copy never changes.
        limit_bytes: larger inputs are refused.
        hosts: names of the HTTP hosts that may be asked, without ports.

    Raises:
        BadInput: there is nothing at the address, it is larger than the limit, or a host is not allowed.
        StorageUnavailable: the store did not answer after some attempts.
    """
    if "://" not in uri or uri.startswith("file://"):
        path = Path(uri.removeprefix("file://"))
        if not path.is_file():
            raise BadInput("no such input file", got=uri)
        _require_size(path.stat().st_size, limit_bytes, uri)
        return path
    suffix = PurePosixPath(urlsplit(uri).path).suffix
    temporary = temporary_beside(folder / f"input{suffix}")
    try:
        if uri.startswith("s3://"):
            retried(uri, lambda: _from_bucket(uri, temporary, limit_bytes))
        else:
            retried(uri, lambda: _from_host(uri, temporary, limit_bytes, hosts))
        target = folder / f"{sha256_file(temporary)[:32]}{suffix}"
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _from_bucket(uri: str, target: Path, limit_bytes: int) -> None:
    filesystem, remote = fsspec.core.url_to_fs(uri, use_listings_cache=False, **s3_options())
    try:
        size = filesystem.info(remote).get("size")
        _require_size(size, limit_bytes, uri)
        filesystem.get_file(remote, str(target))
    except FileNotFoundError:
        raise BadInput("no such input", got=uri) from None
    if target.stat().st_size != size:
        raise StorageUnavailable(f"{uri} was cut", got=f"{target.stat().st_size} bytes", expected=size)


def _from_host(uri: str, target: Path, limit_bytes: int, hosts: Collection[str]) -> None:
    address = uri
    with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, headers={"Accept-Encoding": "identity"}) as client:
        for _ in range(_MAX_REDIRECTS + 1):
            _require_allowed(address, hosts, began_at=uri)
            try:
                with client.stream("GET", address) as response:
                    if not response.has_redirect_location:
                        _receive(response, target, limit_bytes, uri)
                        return
                    address = urljoin(address, response.headers["location"])
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise StorageUnavailable(f"{uri} did not answer", got=type(error).__name__) from error
    raise BadInput(f"{uri} redirects too often", expected=f"at most {_MAX_REDIRECTS} times")


def _receive(response: httpx.Response, target: Path, limit_bytes: int, uri: str) -> None:
    status = response.status_code
    if status in _MAY_PASS or status >= 500:
        raise StorageUnavailable(f"{uri} did not answer", got=f"HTTP {status}")
    if status != 200:
        raise BadInput("no such input" if status in (404, 410) else "the input is refused", got=f"{uri}: HTTP {status}")
    length = response.headers.get("content-length", "")
    _require_size(int(length) if length.isdigit() else None, limit_bytes, uri)
    deadline, num_bytes = time.monotonic() + _DEADLINE_S, 0
    with target.open("wb") as file:
        for piece in response.iter_bytes():
            num_bytes += len(piece)
            _require_size(num_bytes, limit_bytes, uri)
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"{uri} sends too slowly", got=f"{num_bytes} bytes in {_DEADLINE_S:g} s")
            file.write(piece)


def _require_allowed(address: str, hosts: Collection[str], *, began_at: str) -> None:
    parts = urlsplit(address)
    on_the_way = "" if address == began_at else f", where {began_at} leads"
    allowed = {host.lower() for host in hosts}
    if parts.scheme not in ("http", "https") or parts.hostname not in allowed or parts.username or parts.password:
        raise BadInput(
            "this host may not be asked for inputs",
            got=f"{parts.scheme}://{parts.hostname}{on_the_way}",
            expected=", ".join(hosts) or "no host",
            fix="Add it to input_hosts in the configuration",
        )
    if urlsplit(began_at).scheme == "https" and parts.scheme != "https":
        raise BadInput(f"{began_at} leads from https to http", got=parts.hostname, expected="https all the way")


def _require_size(size: int | None, limit_bytes: int, uri: str) -> None:
    if size is not None and size > limit_bytes:
        raise BadInput(f"{uri} is too large", got=f"{size} bytes", expected=f"at most {limit_bytes}")
