"""From a manifest's bytes to raw rows: Parquet, JSON, JSON Lines, CSV.

A row that cannot even be taken apart (a broken line, a list element that is no object) becomes a `BrokenRow` in its
place, so that positions stay those of the file. Nothing here knows what a field means, only how a cell is written.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_core.errors import BadManifest
from tasks.manifest_schema import MANIFEST_VERSION, VERSION_KEY, check_columns, is_pandas_index
from tasks.manifest_source import scheme_of

__all__ = ["BrokenRow", "ManifestFormat", "RawRow", "detect_format", "format_of_suffix", "parse_rows"]

ManifestFormat = Literal["parquet", "json", "jsonl", "csv"]

MAX_ROWS = 1_000_000

_SUFFIXES: dict[str, ManifestFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
}
_PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenRow:
    """A row that holds no fields."""

    got: str
    expected: str
    raw: object
    """What stands in its place."""


RawRow = dict[str, Any] | BrokenRow


def format_of_suffix(uri: str) -> ManifestFormat | None:
    """The format that a file name's suffix promises, if any."""
    path = urlsplit(uri).path if scheme_of(uri) else uri
    return _SUFFIXES.get(PurePosixPath(path).suffix.lower())


def detect_format(uri: str, content: bytes) -> ManifestFormat:
    """The format of a manifest: Parquet by its content, the others by suffix, then by their first character.

    Raises:
        BadManifest: none of the formats fits.
    """
    if content.startswith(_PARQUET_MAGIC):
        return "parquet"
    if promised := format_of_suffix(uri):
        return promised
    first = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"[":
        return "json"
    if first == b"{":
        return "json" if _is_one_json_document(content) else "jsonl"
    raise BadManifest(
        f"{uri} is not a manifest",
        got="an unknown format",
        expected=" | ".join(get_args(ManifestFormat)),
        fix=f"Give the file one of the suffixes {', '.join(_SUFFIXES)}",
    )


def parse_rows(content: bytes, manifest_format: ManifestFormat, *, uri: str) -> list[RawRow]:
    """All rows in file order.

    Raises:
        BadManifest: the file is corrupt, has no rows or too many, or has columns that a manifest does not.
    """
    rows = _PARSERS[manifest_format](content, uri)
    if not rows:
        raise BadManifest(f"{uri} has no rows", fix="Add at least one scenario with input and prompt")
    _check_num_rows(len(rows), uri)
    return rows


def _parse_parquet(content: bytes, uri: str) -> list[RawRow]:
    try:
        # An Arrow buffer, not a Python file: reader threads that call back into a finishing Python abort the process.
        file = pq.ParquetFile(pa.BufferReader(content))
        names = [name for name in file.schema_arrow.names if not is_pandas_index(name)]
        version = (file.schema_arrow.metadata or {}).get(VERSION_KEY.encode(), MANIFEST_VERSION.encode())
        check_columns(names, uri=uri)
        _check_version(version.decode(errors="replace"), uri)
        _check_num_rows(file.metadata.num_rows, uri)
        return list(file.read(columns=names).to_pylist())
    except BadManifest:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _corrupt(uri, "a Parquet file", error) from error


def _parse_json(content: bytes, uri: str) -> list[RawRow]:
    try:
        document = _load_json(content)
    except (ValueError, RecursionError) as error:
        hint = "a JSON list of scenarios (one object a line is JSON Lines: name the file .jsonl)"
        raise _corrupt(uri, hint, error) from error
    if isinstance(document, dict) and set(document) == {"scenarios"}:
        document = document["scenarios"]
    if not isinstance(document, list):
        raise BadManifest(
            f"{uri} is not a list of scenarios",
            got=f"a JSON {_json_kind(document)}",
            expected='[{"input": ..., "prompt": ...}, ...] or {"scenarios": [...]}',
            fix="Put the scenarios into a list",
        )
    return [_json_row(element) for element in document]


def _parse_jsonl(content: bytes, uri: str) -> list[RawRow]:
    # Bytes, not text, so that one line in a wrong encoding spoils only itself.
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [_json_line(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _json_line(number: int, line: bytes) -> RawRow:
    try:
        return _json_row(_load_json(line))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        return BrokenRow(
            got=f"line {number}: {reason}",
            expected="one JSON object a line, in UTF-8",
            raw=line.decode("utf-8", errors="replace"),
        )


def _parse_csv(content: bytes, uri: str) -> list[RawRow]:
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        lines = [cells for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _corrupt(uri, "a CSV file in UTF-8", error) from error
    if not lines:
        return []
    header, *body = lines
    check_columns(header, uri=uri)
    return [_csv_row(header, cells) for cells in body]


def _csv_row(header: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(header):
        return BrokenRow(got=f"{len(cells)} cells", expected=f"{len(header)} cells, as in the header", raw=cells)
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


_PARSERS: dict[ManifestFormat, Callable[[bytes, str], list[RawRow]]] = {
    "parquet": _parse_parquet,
    "json": _parse_json,
    "jsonl": _parse_jsonl,
    "csv": _parse_csv,
}


def _load_json(content: bytes) -> object:
    # json guesses UTF-16 and UTF-32 from zero bytes; a manifest is UTF-8, with or without a byte order mark.
    return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_json_object)


def _json_object(pairs: list[tuple[str, Any]]) -> RawRow:
    # Python keeps the last of two equal keys; a scenario with two prompts must not pass in silence.
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
    return BrokenRow(got=f"the key {repeated!r} twice", expected="each key once", raw=result)


def _json_row(element: object) -> RawRow:
    if isinstance(element, dict | BrokenRow):
        return element
    return BrokenRow(got=f"a JSON {_json_kind(element)}", expected="a JSON object with input and prompt", raw=element)


def _json_kind(value: object) -> str:
    kinds = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null" if value is None else "object")


def _is_one_json_document(content: bytes) -> bool:
    try:
        _load_json(content)
    except (ValueError, RecursionError):
        return False
    # One line of JSON Lines is a document as well; a document for us is the wrapper around a list.
    return b'"scenarios"' in content


def _check_num_rows(num_rows: int, uri: str) -> None:
    if num_rows > MAX_ROWS:
        raise BadManifest(f"{uri} has too many rows", got=num_rows, expected=f"at most {MAX_ROWS}", fix="Split it")


def _check_version(version: str, uri: str) -> None:
    if version != MANIFEST_VERSION:
        raise BadManifest(
            f"{uri} was written for another version of the manifest",
            got=version,
            expected=MANIFEST_VERSION,
            fix="Update crossroads, or convert the manifest with the version that wrote it",
        )


def _corrupt(uri: str, expected: str, error: Exception) -> BadManifest:
    reason = " ".join(str(error).split())[:200]
    return BadManifest(
        f"{uri} cannot be read", got=reason or type(error).__name__, expected=expected, fix="Write the file again"
    )
