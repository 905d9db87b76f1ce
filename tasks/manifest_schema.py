"""The published columns of a manifest: one list, from which schema, aliases, hints and documentation come."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cosmos_core.errors import BadManifest
from tasks.scenario_rules import is_label_key

__all__ = [
    "ALIASES",
    "LABEL_PREFIX",
    "MANIFEST_SCHEMA",
    "MANIFEST_VERSION",
    "OFF",
    "VERSION_KEY",
    "check_columns",
    "schema_document",
    "unknown_name",
]

MANIFEST_VERSION = "1"
VERSION_KEY = "crossroads.manifest.version"
LABEL_PREFIX = "label."
"""A column `label.weather` is the label `weather`: how flat files hold labels."""
OFF = "<none>"
"""Cell text that means "explicitly nothing", because an empty CSV cell means "not given"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the manifest."""

    name: str
    type: pa.DataType
    description: str
    required: bool = False
    alias: str | None = None


_ADAPTER = pa.struct([pa.field("name", pa.string(), nullable=False), pa.field("strength", pa.float64())])

COLUMNS = (
    Column(
        name="scenario_id",
        type=pa.string(),
        description="Unique name of the scenario, also where case does not count: 1 to 128 of A-Z a-z 0-9 . _ -. "
        "Default: from output_name, else from the input's name and the row's content.",
    ),
    Column(
        name="input",
        type=pa.string(),
        required=True,
        alias="input_video",
        description="Image or video to start from: a path relative to the manifest's folder (or the input root), "
        "or an s3://, http(s):// or file:// address.",
    ),
    Column(name="prompt", type=pa.string(), required=True, description="What happens, in up to 20000 characters."),
    Column(
        name="negative_prompt",
        type=pa.string(),
        description=f"What the video should not look like. Empty text (in CSV {OFF}) turns guidance off.",
    ),
    Column(
        name="adapters",
        type=pa.list_(pa.field("element", _ADAPTER)),  # the name that Parquet itself gives list elements
        description="LoRA adapters, each with a strength from -10 to 10 (default 1). As text: name[:strength],... "
        f"An empty list (in CSV {OFF}) means the base model.",
    ),
    Column(name="seed", type=pa.int64(), description="Seed of the noise, 0 to 4294967295."),
    Column(name="guidance", type=pa.float64(), description="Guidance scale, 0 to 50."),
    Column(name="num_steps", type=pa.int32(), description="Denoising steps, 1 to 1000."),
    Column(
        name="num_conditional_frames", type=pa.int32(), description="Frames of the input to keep: 1, or 5 of a video."
    ),
    Column(
        name="num_chunks",
        type=pa.int32(),
        description="Clips chained into one long video, 1 to 64, each from the last frames of the one before.",
    ),
    Column(name="model", type=pa.string(), description="Model size: 2B, 14B or tiny."),
    Column(name="resolution", type=pa.string(), description="480 or 720 (2B, 14B), 112 (tiny)."),
    Column(name="fps", type=pa.int32(), description="Frames per second: 10 or 16 (2B, 14B), 10 (tiny)."),
    Column(name="aspect_ratio", type=pa.string(), description="Width to height: 16:9, 1:1, 4:3, 3:4 or 9:16."),
    Column(
        name="output_name",
        type=pa.string(),
        alias="output_video",
        description="Your name for the video, a relative path of up to 512 characters; kept in its record.",
    ),
    Column(
        name="labels",
        type=pa.map_(pa.string(), pa.string()),
        description="Free-form facts such as incident, weather, time_of_day, actors. "
        f"In flat files one column each: {LABEL_PREFIX}weather.",
    ),
)

ALIASES = {column.alias: column.name for column in COLUMNS if column.alias}

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field(column.name, column.type, nullable=not column.required, metadata={"description": column.description})
        for column in COLUMNS
    ],
    metadata={VERSION_KEY: MANIFEST_VERSION},
)

_NAMES = frozenset([column.name for column in COLUMNS] + list(ALIASES))
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def is_pandas_index(name: str) -> bool:
    """Whether a Parquet column is the row index that pandas stores after filtering or sorting a table."""
    return _PANDAS_INDEX.fullmatch(name) is not None


def is_known(name: str) -> bool:
    return name in _NAMES or (name.startswith(LABEL_PREFIX) and is_label_key(name.removeprefix(LABEL_PREFIX)))


def unknown_name(name: str) -> str | None:
    """None if a manifest has such a field; otherwise what was probably meant."""
    if is_known(name):
        return None
    if name.startswith(LABEL_PREFIX):
        return f"{LABEL_PREFIX} followed by a-z, then a-z 0-9 _"
    close = difflib.get_close_matches(name[:64].strip().lower(), sorted(_NAMES), n=1)
    return close[0] if close else f"one of the manifest's fields, or {LABEL_PREFIX}<name>"


def check_columns(names: Sequence[str], *, uri: str) -> None:
    """Checks the header of a table.

    Raises:
        BadManifest: a column is unknown, comes twice, or a required one is missing.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise BadManifest(f"{uri} has a column twice", got=repr(name), fix="Remove or rename one of them")
        if (expected := unknown_name(name)) is not None:
            raise BadManifest(f"{uri} has an unknown column", got=repr(name), expected=expected, fix=_fix(name))
    for column in COLUMNS:
        if column.required and not {column.name, column.alias} & set(names):
            raise BadManifest(
                f"{uri} lacks the column {column.name!r}",
                got=_listing(names),
                expected="at least the columns input and prompt",
                fix="Add it; `crossroads manifest schema` describes every column",
            )


def schema_document() -> dict[str, Any]:
    """The columns as a JSON-ready document."""
    return {
        "name": "crossroads.manifest",
        "version": MANIFEST_VERSION,
        "columns": [
            {
                "name": column.name,
                "type": str(column.type),
                "required": column.required,
                "aliases": [column.alias] if column.alias else [],
                "description": column.description,
            }
            for column in COLUMNS
        ],
    }


def _fix(name: str) -> str:
    if ";" in name or "\t" in name:
        return "Separate the columns with commas"
    if not name.strip():
        return "Give the column a name; pandas writes a nameless index unless to_csv has index=False"
    return f"Rename or remove it, or make it a label: {LABEL_PREFIX}<name>"


def _listing(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(map(repr, names[:limit])) + (f" and {len(names) - limit} more" if len(names) > limit else "")
