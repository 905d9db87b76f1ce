"""Manifests written in any of the formats, holding exactly what their rows give and no defaults."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cosmos_core.errors import BadConfig
from tasks.manifest_formats import ManifestFormat, format_of_suffix
from tasks.manifest_schema import LABEL_PREFIX, MANIFEST_SCHEMA, OFF
from tasks.manifest_source import scheme_of
from tasks.scenario import ScenarioRow

__all__ = ["encode_manifest", "write_manifest"]


def write_manifest(
    rows: Sequence[ScenarioRow], path: str | Path, *, manifest_format: ManifestFormat | None = None
) -> None:
    """Writes rows to a local file, complete or not at all; an existing file is replaced.

    Args:
        rows: what to write.
        path: the file; its suffix names the format, unless there is
        manifest_format: the format to write.

    Raises:
        BadConfig: the format is unknown, or the file cannot be written.
    """
    chosen = manifest_format or format_of_suffix(str(path))
    if chosen is None or scheme_of(str(path)):
        raise BadConfig(
            "no manifest can be written there",
            got=path,
            expected="a local file with the suffix .parquet, .json, .jsonl or .csv",
        )
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(encode_manifest(rows, chosen))
        temporary.replace(target)
    except OSError as error:
        raise BadConfig(
            "the manifest cannot be written", got=f"{target} ({error.strerror})", fix="Check folder and rights"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def encode_manifest(rows: Sequence[ScenarioRow], manifest_format: ManifestFormat) -> bytes:
    """The bytes of a manifest file with these rows; Parquet carries `MANIFEST_SCHEMA` exactly."""
    return _ENCODERS[manifest_format]([row.given() for row in rows])


def _encode_parquet(rows: list[dict[str, Any]]) -> bytes:
    # Arrow takes a map as pairs.
    with_pairs = [{**row, "labels": list(row["labels"].items())} if "labels" in row else row for row in rows]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(with_pairs, schema=MANIFEST_SCHEMA), sink, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _encode_json(rows: list[dict[str, Any]]) -> bytes:
    return (json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode()


def _encode_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _encode_csv(rows: list[dict[str, Any]]) -> bytes:
    flat = [_flat(row) for row in rows]
    used = {name for row in flat for name in row}
    columns = [name for name in MANIFEST_SCHEMA.names if name in used]
    columns += sorted(name for name in used if name.startswith(LABEL_PREFIX))
    sink = io.StringIO(newline="")
    writer = csv.DictWriter(sink, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return sink.getvalue().encode()


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat = {name: value for name, value in row.items() if name not in ("labels", "adapters")}
    if flat.get("negative_prompt") == "":
        flat["negative_prompt"] = OFF
    if (adapters := row.get("adapters")) is not None:
        flat["adapters"] = ",".join(f"{adapter['name']}:{adapter['strength']!r}" for adapter in adapters) or OFF
    flat.update({LABEL_PREFIX + name: value for name, value in row.get("labels", {}).items()})
    return flat


_ENCODERS: dict[ManifestFormat, Callable[[list[dict[str, Any]]], bytes]] = {
    "parquet": _encode_parquet,
    "json": _encode_json,
    "jsonl": _encode_jsonl,
    "csv": _encode_csv,
}
