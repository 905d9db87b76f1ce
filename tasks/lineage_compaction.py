"""Compaction of the lineage dataset: the small files of many runs become few large ones.

Over a network each file costs requests, whatever it holds. The merged file is written before what is in it is removed,
so rows may be there twice for a moment, or after a crash; the next compaction leaves each once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cosmos_core.hashing import sha256_json
from tasks.lineage_dataset import CONTENT_TYPE, MERGED, LineageDataset, Part, catalog_schema
from tasks.lineage_schema import LINEAGE_SCHEMA

__all__ = ["compact", "compact_when_many"]

_MANY_FILES = 100
_ROWS_PER_FILE = 250_000
_ROWS_PER_GROUP = 25_000


def compact_when_many(dataset: LineageDataset) -> None:
    """Compact if there are so many small files that questions over a network would take long.

    Raises:
        StorageUnavailable: the store refused or did not answer.
    """
    if sum(not name.startswith(MERGED) for name in dataset.names()) > _MANY_FILES:
        compact(dataset)


def compact(dataset: LineageDataset, *, rows_per_file: int = _ROWS_PER_FILE) -> tuple[int, int]:
    """Merge small files into few large ones, of each run and scenario the last row. Others may go on meanwhile.

    Returns:
        How many files were merged, and into how many.

    Raises:
        StorageUnavailable: the store refused or did not answer; running it again goes on.
    """
    return dataset.ask(lambda parts: _compact(dataset, parts, rows_per_file))


def _compact(dataset: LineageDataset, parts: Sequence[Part], rows_per_file: int) -> tuple[int, int]:
    small = [part for part in parts if part.num_rows < rows_per_file // 2]
    groups = [group for group in _grouped(small, rows_per_file) if len(group) > 1]
    for group in groups:
        _merge(dataset, group)
        for part in group:
            dataset.store.remove(part.name)
    return sum(len(group) for group in groups), len(groups)


def _merge(dataset: LineageDataset, parts: Sequence[Part]) -> None:
    name = f"{MERGED}/{sha256_json([part.name for part in parts])[:24]}.parquet"
    schema = catalog_schema(
        (run for part in parts for run in part.runs), (version for part in parts for version in part.versions)
    )
    with tempfile.TemporaryDirectory(prefix="crossroads-lineage-") as folder:
        path = Path(folder) / "merged.parquet"
        rows = zip(_rows(dataset, parts), _last_rows(dataset, parts), strict=True)
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for table in _tables((table.filter(mask) for table, mask in rows), _ROWS_PER_GROUP):
                writer.write_table(table)
        dataset.store.publish_file(path, name, content_type=CONTENT_TYPE)


def _rows(dataset: LineageDataset, parts: Sequence[Part], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The files one by one: merging must not take the memory of all of them."""
    for part in parts:
        with dataset.store.open(part.name) as file:
            yield pq.read_table(file, schema=LINEAGE_SCHEMA, columns=columns)


def _last_rows(dataset: LineageDataset, parts: Sequence[Part]) -> list[pa.BooleanArray]:
    """For each file, which of its rows no other row of these files replaces."""
    keys = ["run_id", "scenario_id"]
    table = pa.concat_tables(_rows(dataset, parts, [*keys, "finished_at"]))
    numbers = pa.array(range(len(table)), pa.int64())
    ordered = table.append_column("row", numbers).sort_by([("finished_at", "ascending"), ("row", "ascending")])
    last = ordered.append_column("place", numbers).group_by(keys).aggregate([("place", "max")]).column("place_max")
    is_last = pc.is_in(numbers, value_set=ordered.column("row").take(last).combine_chunks())
    bounds = [0, *itertools.accumulate(part.num_rows for part in parts)]
    return [is_last.slice(start, stop - start) for start, stop in itertools.pairwise(bounds)]


def _grouped(parts: Sequence[Part], num_rows: int) -> list[list[Part]]:
    """Parts in the order of their runs, in groups of at most so many rows; a larger part is a group of its own."""
    groups: list[list[Part]] = [[]]
    for part in sorted(parts, key=lambda part: (part.runs, part.name)):
        if groups[-1] and sum(other.num_rows for other in groups[-1]) + part.num_rows > num_rows:
            groups.append([])
        groups[-1].append(part)
    return groups


def _tables(tables: Iterable[pa.Table], num_rows: int) -> Iterator[pa.Table]:
    """Tables put together into ones of about so many rows."""
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(len(other) for other in waiting) >= num_rows:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
