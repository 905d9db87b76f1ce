"""From what a row calls its input to one address that may be opened.

A manifest comes from outside: it may name files of its own folder (or of the input root that the operator gives) and
addresses of remote stores, nothing else on the machine.
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from urllib.parse import quote, urlsplit

from cosmos_core.errors import BadConfig, BadScenario
from tasks.manifest_source import local_path, scheme_of, without_credentials

__all__ = ["check_input_root", "folder_of", "resolve_input"]

_REMOTE = ("s3", "http", "https")
_EXPECTED_SCHEMES = "a relative path, s3://, http(s):// or file://"


def check_input_root(input_root: str | None) -> None:
    """Checks what an operator gave as input root.

    Raises:
        BadConfig: it is neither an existing folder nor an s3:// or http(s):// address.
    """
    if input_root is None or scheme_of(input_root) in _REMOTE:
        return
    path = local_path(input_root)
    if not input_root or path is None or not os.path.isdir(path):
        raise BadConfig(
            "the input root is not a folder",
            got=input_root or "nothing",
            expected="an existing folder or an s3:// address",
            fix="Check --input-root",
        )


def resolve_input(scenario_input: str, *, manifest_uri: str, input_root: str | None = None) -> str:
    """The address that a row's input stands for.

    Args:
        scenario_input: the row's `input`.
        manifest_uri: where the manifest lies; its folder is the root of relative inputs, unless there is
        input_root: a folder or s3:// or http(s):// address that is the root instead.

    Returns:
        An absolute local path, symbolic links resolved, of an existing file; or an s3:// or http(s):// URI, of which
        nothing is known but that it stays below the root if the input was relative.

    Raises:
        BadScenario: the input leaves the root, is of a kind that is not read, or is a local file that does not exist.
    """
    scheme = scheme_of(scenario_input)
    if scheme in _REMOTE:
        return _remote(scenario_input, scheme)
    if scheme not in ("", "file"):
        raise BadScenario("no inputs are read from such an address", got=scenario_input, expected=_EXPECTED_SCHEMES)
    path = local_path(scenario_input)
    if path is None:
        raise BadScenario("this is no local file address", got=scenario_input, expected="file:///absolute/path")
    root = input_root if input_root is not None else folder_of(manifest_uri)
    if scheme_of(root) in _REMOTE:
        return _below_remote(str(path), root)
    folder = local_path(root)
    assert folder is not None, "the root was read or checked before"
    return _below_local(path, folder)


def folder_of(manifest_uri: str) -> str:
    """The folder or address that relative inputs of a manifest begin at."""
    if scheme_of(manifest_uri) in _REMOTE:
        return manifest_uri.partition("?")[0].rpartition("/")[0]
    path = local_path(manifest_uri)
    assert path is not None, "the manifest was read from there"
    return str(path.absolute().parent)


def _remote(uri: str, scheme: str) -> str:
    if without_credentials(uri) != uri:
        raise BadScenario(
            "an input address carries credentials",
            got=without_credentials(uri),
            expected="an address without them",
            fix="Put them into the environment: whatever a manifest says is recorded",
        )
    # `::` chains file systems in fsspec addresses: what follows could be any file of this machine.
    if "::" in uri:
        raise BadScenario("this address names several places", got=uri, expected=f"{scheme}://.../file")
    parts = urlsplit(uri)
    if not parts.netloc or not parts.path.strip("/") or uri.endswith("/"):
        raise BadScenario("this address names no file", got=uri, expected=f"{scheme}://.../file")
    return f"{scheme}{uri[len(scheme) :]}"


def _below_remote(path: str, root: str) -> str:
    relative = posixpath.normpath(path)
    # `::` chains file systems in fsspec addresses, so a file name with it could name any other store.
    if posixpath.isabs(path) or relative.split("/")[0] in ("..", ".") or "::" in path:
        raise _outside(path, root)
    if scheme_of(root) != "s3":
        relative = quote(relative)
    return f"{root.rstrip('/')}/{relative}"


def _below_local(path: Path, folder: Path) -> str:
    root = os.path.realpath(folder)
    resolved = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([root, resolved]) != root:
        raise _outside(str(path), root)
    if os.path.isdir(resolved):
        raise BadScenario("the input is a folder", got=resolved, expected="an image or video file")
    if not os.path.isfile(resolved):
        raise BadScenario(
            "the input does not exist",
            got=resolved,
            expected="an image or video file",
            fix="Check the path; relative ones begin at the manifest's folder or at --input-root",
        )
    return resolved


def _outside(path: str, root: str) -> BadScenario:
    return BadScenario(
        "the input lies outside the input root",
        got=path,
        expected=f"a path below {root}",
        fix="Pass --input-root with the folder that holds all inputs",
    )
