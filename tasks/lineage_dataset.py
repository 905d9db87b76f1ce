"""The lineage dataset: Parquet files partitioned by run, below one folder or `s3://` prefix.

    rows/run_id=<run>/<hash>.parquet    what one run wrote, a few files each
    rows/merged/<hash>.parquet          many runs in one file, after a compaction

Files are only ever added; a compaction writes the merged file before it removes what is in it. So a row may be there
twice, for a moment or after a crash: readers take the last one of each run and scenario. The footer of every file names
the runs and the versions in it, so that most questions open few files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq

from cosmos_core.errors import BadConfig, BadRequest, StorageUnavailable
from cosmos_core.hashing import sha256_json
from tasks.lineage_schema import LINEAGE_SCHEMA, SCHEMA_VERSION
from tasks.storage import Store, open_store

_T = TypeVar("_T")

__all__ = [
    "CONTENT_TYPE",
    "MERGED",
    "LineageDataset",
    "Part",
    "catalog_schema",
    "find_lineage",
    "lineage_of",
    "open_lineage",
]

_FOLDER = "rows"
MERGED = f"{_FOLDER}/merged"
_CATALOG = b"crossroads.lineage.catalog"
_VERSION = b"crossroads.lineage.version"
CONTENT_TYPE = "application/vnd.apache.parquet"
_MAX_ROUNDS = 5
_READAHEAD = {"batch_readahead": 4, "fragment_readahead": 4}
_READERS = 32
"""Footers that are read at once: over a network this is what the time goes into."""


def find_lineage(option: str | None = None, configured: str | None = None, output: str | None = None) -> str | None:
    """Where the dataset is: the option, else `CROSSROADS_LINEAGE`, else the configuration, else `lineage` in an output.

    Returns:
        A folder or an `s3://` prefix; None if none is named and there is no output.
    """
    named = option or os.environ.get("CROSSROADS_LINEAGE") or configured
    return named or (f"{output}/lineage" if output else None)


def open_lineage(place: str, *, create: bool = False) -> LineageDataset:
    """The dataset at a place.

    Raises:
        BadConfig: there is no such folder or bucket.
    """
    store = open_store(place, for_writing=create)
    if store.is_local and not Path(store.root).is_dir():
        raise BadConfig("there is no lineage dataset", got=place, fix="A run makes one; name it with --lineage")
    return LineageDataset(store)


def lineage_of(output: Store, configured: str | None) -> LineageDataset:
    """The dataset that a run writes to.

    Raises:
        BadConfig: the one that is named cannot be written to.
    """
    named = find_lineage(configured=configured)
    return open_lineage(named, create=True) if named else LineageDataset(output.below("lineage"))


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the dataset, as its footer describes it."""

    name: str
    num_rows: int
    runs: tuple[str, ...]
    versions: tuple[dict[str, Any], ...]
    """Distinct versions, in the fields of `VERSION_TYPE` but the strength, which is the scenario's."""

    def uses(self, hashes: Iterable[str]) -> bool:
        """Whether a version with one of these hashes had a part in any row."""
        return not {version["sha256"] for version in self.versions}.isdisjoint(hashes)


class LineageDataset:
    """Rows of all runs below one place."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def uri(self) -> str:
        return self.store.uri

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows, one new file for each run among them. Adding the same rows again changes nothing.

        Raises:
            StorageUnavailable: the store refused or did not answer.
        """
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_run.setdefault(row["run_id"], []).append(row)
        for run_id, members in by_run.items():
            key = [[row["scenario_id"], row["job_id"], row["status"], row["output_sha256"]] for row in members]
            name = f"{_FOLDER}/run_id={run_id}/{sha256_json(key)[:24]}.parquet"
            table = pa.Table.from_pylist(members, schema=LINEAGE_SCHEMA)
            versions = [version for row in members for version in row["versions"]]
            sink = pa.BufferOutputStream()
            with pq.ParquetWriter(sink, catalog_schema((run_id,), versions), compression="zstd") as writer:
                writer.write_table(table)
            self.store.publish_bytes(bytes(sink.getvalue()), name, content_type=CONTENT_TYPE)

    def ask(self, question: Callable[[Sequence[Part]], _T], *, run_id: str | None = None) -> _T:
        """The answer to a question about the files, asked again if a compaction removes one of them meanwhile.

        Args:
            question: gets the footers of all files.
            run_id: leave out files that hold no rows of this run.
        """
        for _ in range(_MAX_ROUNDS):
            try:
                parts = self._parts(self.names(run_id))
                return question([part for part in parts if run_id is None or run_id in part.runs])
            except FileNotFoundError:
                continue
        raise StorageUnavailable(f"the files of {self.uri} change too fast", got=f"{_MAX_ROUNDS} attempts")

    def names(self, run_id: str | None = None) -> tuple[str, ...]:
        """Names of the files, or of those that may hold rows of one run."""
        folders = (_FOLDER,) if run_id is None else (f"{_FOLDER}/run_id={run_id}", MERGED)
        return tuple(name for folder in folders for name in self.store.list(folder) if name.endswith(".parquet"))

    def _parts(self, names: Sequence[str]) -> list[Part]:
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(self._part, names))

    def batches(
        self, parts: Sequence[Part], columns: Sequence[str], *, where: ds.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Some columns of some files, batch by batch."""
        if not parts:
            return
        paths = [self.store.path_of(part.name) for part in parts]
        dataset = ds.dataset(paths, schema=LINEAGE_SCHEMA, format="parquet", filesystem=self._filesystem())
        with self.store.translating(_FOLDER):
            yield from dataset.to_batches(columns=list(columns), filter=where, **_READAHEAD)

    def table(self, parts: Sequence[Part], columns: Sequence[str], *, where: ds.Expression | None = None) -> pa.Table:
        """Some columns of some files as one table."""
        fields = pa.schema([LINEAGE_SCHEMA.field(name) for name in columns])
        return pa.Table.from_batches(self.batches(parts, columns, where=where), schema=fields)

    def _filesystem(self) -> Any:
        return pyarrow.fs.LocalFileSystem() if self.store.is_local else self.store.filesystem

    def _part(self, name: str) -> Part:
        try:
            with self.store.open(name) as file:
                metadata = pq.read_metadata(file)
        except pa.ArrowInvalid as error:
            raise BadRequest(f"{self.store.uri_of(name)} is no file of a lineage dataset", got=error) from error
        facts = metadata.metadata or {}
        version = int(facts.get(_VERSION, b"0"))
        if not 1 <= version <= SCHEMA_VERSION:
            raise BadRequest(
                f"{self.store.uri_of(name)} is of another version",
                got=version,
                expected=f"1 to {SCHEMA_VERSION}",
                fix="Read it with a newer Crossroads, or move what is no lineage file out of the folder",
            )
        catalog = json.loads(facts[_CATALOG])
        return Part(name=name, num_rows=metadata.num_rows, runs=tuple(catalog["runs"]),
                    versions=tuple(catalog["versions"]))  # fmt: skip


def catalog_schema(runs: Iterable[str], versions: Iterable[dict[str, Any]]) -> pa.Schema:
    """The schema with the runs and distinct versions of a file in its metadata."""
    distinct = {json.dumps(fact): fact for fact in (version | {"strength": None} for version in versions)}
    catalog = json.dumps({"runs": list(dict.fromkeys(runs)), "versions": list(distinct.values())})
    return LINEAGE_SCHEMA.with_metadata({**LINEAGE_SCHEMA.metadata, _CATALOG: catalog.encode()})
