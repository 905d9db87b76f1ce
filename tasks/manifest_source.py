"""Where a manifest lies: its bytes, from a local file or a remote store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import fsspec

from cosmos_core.errors import BadConfig, BadManifest, StorageUnavailable
from tasks.storage_credentials import s3_options

__all__ = ["local_path", "read_source", "scheme_of", "without_credentials"]

REMOTE_SCHEMES = ("s3", "http", "https")
MAX_MANIFEST_BYTES = 1 << 28
"""A million rows take about 100 MiB of Parquet; a video given by mistake is caught before it fills the memory."""

_CLIENTS = ("aiobotocore", "aiohttp", "botocore")
_CREDENTIALS_FIX = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CREDENTIALS = re.compile(r"://[^/?#@\s]*@")
_SIGNATURE = re.compile(
    r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|awsaccesskeyid|signature"
    r"|sig|access_token|token|api_key|apikey)=)(?!\*)[^&#\s]+"
)
"""What a signed address carries: whoever has it may read the file."""


def scheme_of(uri: str) -> str:
    """The lower-case scheme of a URI; empty for a plain path."""
    match = _SCHEME.match(uri)
    return match[1].lower() if match else ""


def without_credentials(value: str) -> str:
    """Text with any `user:password@` and any signature of an address masked, fit for logs and records."""
    return _SIGNATURE.sub(r"\1***", _CREDENTIALS.sub("://***@", value))


def local_path(uri: str) -> Path | None:
    """The local path that a plain path or a file:// URI names; None for another scheme or another host."""
    scheme = scheme_of(uri)
    if scheme == "":
        return Path(uri)
    if scheme != "file":
        return None
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.netloc in ("", "localhost") and parts.path.startswith("/") else None


def read_source(uri: str) -> bytes:
    """All bytes of a manifest.

    Raises:
        BadManifest: it is missing, not a file, not readable, too large, or the address is of a kind that is not read.
        StorageUnavailable: a remote store did not answer.
    """
    if not uri or without_credentials(uri) != uri or "\0" in uri:
        raise BadManifest(
            "this is no address of a manifest",
            got=repr(without_credentials(uri)),
            expected="a path or URI without credentials",
            fix="Put credentials into the environment",
        )
    path = local_path(uri)
    if path is not None:
        return _read_local(path)
    if scheme_of(uri) not in REMOTE_SCHEMES:
        raise BadManifest(
            "manifests are not read from such an address",
            got=uri,
            expected="a local path, file:///..., s3://... or http(s)://...",
        )
    return _read_remote(uri)


def _read_local(path: Path) -> bytes:
    if not os.path.exists(path):
        raise BadManifest("manifest not found", got=path, fix="Check the path")
    if not os.path.isfile(path):
        raise BadManifest("manifest is not a file", got=path, expected="one file", fix="Name the file itself")
    try:
        _check_size(path.stat().st_size, str(path))
        return path.read_bytes()
    except OSError as error:
        raise BadManifest(
            "manifest cannot be read", got=f"{path} ({error.strerror})", fix="Check its rights"
        ) from error


def _read_remote(uri: str) -> bytes:
    try:
        options = s3_options() if scheme_of(uri) == "s3" else {}
        files, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, **options)
        _check_size(files.info(path).get("size"), uri)
        content: bytes = files.cat_file(path)
        return content
    except (BadManifest, BadConfig):
        raise
    except FileNotFoundError as error:
        raise BadManifest("manifest not found", got=uri, fix="Check bucket and key") from error
    except IsADirectoryError as error:
        raise BadManifest("manifest is not a file", got=uri, expected="one file", fix="Name the file itself") from error
    except PermissionError as error:
        raise BadManifest("access to the manifest is denied", got=uri, fix="Check the credentials' rights") from error
    except Exception as error:
        # The clients of the stores bring exceptions that share no base; anything else is a fault of ours.
        known = isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _CLIENTS
        if not known:
            raise
        if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
            raise BadManifest("no credentials for the manifest's store", got=uri, fix=_CREDENTIALS_FIX) from error
        raise StorageUnavailable(
            "the manifest's store did not answer",
            got=f"{uri} ({type(error).__name__}: {without_credentials(str(error))})",
            fix="Check address, credentials and network",
        ) from error


def _check_size(size: int | None, uri: str) -> None:
    if size is not None and size > MAX_MANIFEST_BYTES:
        raise BadManifest(
            f"{uri} is too large for a manifest",
            got=f"{size} bytes",
            expected=f"at most {MAX_MANIFEST_BYTES}",
            fix="Check that it is the manifest, or split it",
        )
