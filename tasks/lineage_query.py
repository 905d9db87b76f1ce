"""Questions to the lineage dataset: what made this video, what did this version make, what must be made again.

A version is withdrawn together with everything that was made from it: a base takes the adapters along that were trained
on it, a training checkpoint those that were extracted from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from tasks.lineage_dataset import LineageDataset, Part
from tasks.lineage_schema import LINEAGE_SCHEMA

__all__ = ["VIDEO_COLUMNS", "Version", "derived_versions", "find_runs", "find_versions", "rows_of", "videos_of"]

VIDEO_COLUMNS = (
    "run_id",
    "scenario_id",
    "status",
    "finished_at",
    "video_uri",
    "record_uri",
    "output_sha256",
    "manifest_uri",
)

_VIDEO_SCHEMA = pa.schema([*(LINEAGE_SCHEMA.field(name) for name in VIDEO_COLUMNS), pa.field("because", pa.string())])
_HASH_START = re.compile(r"[0-9a-f]{8,64}")

Version = dict[str, Any]
"""The fields of `VERSION_TYPE`, without a strength."""


def find_versions(parts: Iterable[Part], text: str) -> list[Version]:
    """Versions of a hash (or its first 8 digits or more), exact registry version, reference, name or path."""
    is_hash = _HASH_START.fullmatch(text) is not None
    found: dict[tuple[str, str | None, str | None], Version] = {}
    for part in parts:
        for version in part.versions:
            named = text in (version["version"], version["reference"], version["name"], version["path"])
            if named or (is_hash and (version["sha256"] or "").startswith(text)):
                found.setdefault((version["role"], version["sha256"], version["version"]), version)
    return list(found.values())


def derived_versions(parts: Sequence[Part], hashes: Iterable[str]) -> dict[str, Version]:
    """By hash, every known version that was trained on or extracted from one of these, or from one that was."""
    children: dict[str, dict[str, Version]] = {}
    for part in parts:
        for version in part.versions:
            for parent in (version["parent_sha256"], version["source_sha256"]):
                if parent and version["sha256"] and parent != version["sha256"]:
                    children.setdefault(parent, {})[version["sha256"]] = version
    derived: dict[str, Version] = {}
    waiting = list(hashes)
    while waiting:
        for sha256, version in children.get(waiting.pop(), {}).items():
            if sha256 not in derived:
                derived[sha256] = version
                waiting.append(sha256)
    return derived


def find_runs(parts: Iterable[Part], text: str) -> list[str]:
    """Runs whose id is or begins with a text."""
    return sorted({run for part in parts for run in part.runs if run.startswith(text)})


def rows_of(dataset: LineageDataset, parts: Sequence[Part], where: ds.Expression) -> list[dict[str, Any]]:
    """Whole rows that a condition holds for, oldest first, each run and scenario once."""
    # Arrow decodes every column of a file before it filters, so the few files that count are found first.
    runs = set(dataset.table(parts, ["run_id"], where=where).column("run_id").unique().to_pylist())
    chosen = [part for part in parts if not runs.isdisjoint(part.runs)]
    there = where & ds.field("run_id").isin(sorted(runs))
    return list(_last_of_each(dataset.table(chosen, LINEAGE_SCHEMA.names, where=there)).to_pylist())


def videos_of(dataset: LineageDataset, parts: Sequence[Part], hashes: Sequence[str]) -> pa.Table:
    """The videos that versions of these hashes had a part in, oldest first.

    Args:
        hashes: the first of these that a video used is its reason.

    Returns:
        `VIDEO_COLUMNS`, then `because`, the hash that was used, and `current`, whether the video is still what lies at
        its address, as far as the dataset knows.
    """
    wanted = pa.array(hashes, pa.string())
    used = [part for part in parts if part.uses(hashes)]
    found = [_with_reason(batch, wanted) for batch in dataset.batches(used, (*VIDEO_COLUMNS, "uses"))]
    table = _last_of_each(pa.Table.from_batches(found, schema=_VIDEO_SCHEMA))
    return table.append_column("current", _is_current(dataset, parts, table))


def _with_reason(batch: pa.RecordBatch, wanted: pa.Array) -> pa.RecordBatch:
    """The rows of a batch that use one of the wanted hashes, and which of them comes first in `wanted`."""
    uses = batch.column("uses")
    place = pc.index_in(pc.list_flatten(uses), value_set=wanted)
    hits = pa.table({"row": pc.list_parent_indices(uses), "place": place}).filter(pc.is_valid(place))
    first = hits.group_by("row").aggregate([("place", "min")]).sort_by("row").combine_chunks()
    rows, places = first.column("row").combine_chunks(), first.column("place_min").combine_chunks()
    columns = [batch.column(name).take(rows) for name in VIDEO_COLUMNS]
    return pa.record_batch([*columns, wanted.take(places)], schema=_VIDEO_SCHEMA)


def _last_of_each(table: pa.Table) -> pa.Table:
    """The last row of each run and scenario, oldest first: a file and what it was merged into may both be there."""
    keys = ["run_id", "scenario_id"]
    ordered = table.sort_by([(name, "ascending") for name in ("finished_at", *keys)])
    numbered = ordered.select(keys).append_column("row", pa.array(range(len(ordered)), pa.int64()))
    last = numbered.group_by(keys).aggregate([("row", "max")])
    return ordered if len(last) == len(ordered) else ordered.take(last.sort_by("row_max").column("row_max"))


def _is_current(dataset: LineageDataset, parts: Sequence[Part], videos: pa.Table) -> pa.ChunkedArray:
    """Whether no later row gives the same address another video, or another place to the same scenario's clip."""
    addresses = pc.unique(videos.column("record_uri"))
    there = dataset.table(parts, ["record_uri", "finished_at"], where=ds.field("record_uri").isin(addresses))
    newest = there.group_by("record_uri").aggregate([("finished_at", "max")])
    at = pc.index_in(videos.column("record_uri"), value_set=newest.column("record_uri").combine_chunks())
    return pc.greater_equal(videos.column("finished_at"), newest.column("finished_at_max").take(at))
