"""From records to lineage rows: gathered while a run goes on, written a thousand at a time, complete at its end.

The records are the truth. Rows that a run could not write any more because it was killed are written by the next run
over the same output, or by `collect_lineage`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime

import pyarrow.dataset as ds

from cosmos_core.errors import StorageUnavailable
from tasks.lineage_compaction import compact_when_many
from tasks.lineage_dataset import LineageDataset, Part
from tasks.lineage_schema import lineage_row
from tasks.records import Record, read_record
from tasks.storage import Store

__all__ = ["LineageRows", "collect_lineage"]

_ROWS_PER_FILE = 1000
_log = logging.getLogger(__name__)


class LineageRows:
    """Rows on their way into a dataset. Safe to share between threads.

    Args:
        dataset: where they go.
        store: the output that the records are of.
    """

    def __init__(self, dataset: LineageDataset, store: Store, *, rows_per_file: int = _ROWS_PER_FILE) -> None:
        self.dataset = dataset
        self._store = store
        self._rows_per_file = rows_per_file
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], Record] = {}
        self._written: dict[str, dict[str, datetime]] = {}

    def add(self, record: Record) -> None:
        """Take the row of a record; a scenario that failed has none, since it leaves what was there before.

        Raises:
            StorageUnavailable: it was time to write, and the store did not answer; nothing taken is lost by that.
        """
        if not record.status.is_final:
            return
        with self._lock:
            self._waiting[(record.run_id, record.scenario_id)] = record
            if len(self._waiting) >= self._rows_per_file:
                self._write()

    def add_missing(self, record: Record) -> None:
        """Take the row of a record of an earlier run, if the dataset does not have it.

        Raises:
            StorageUnavailable: the store did not answer.
        """
        with self._lock:
            if record.run_id not in self._written:
                self._written[record.run_id] = _finish_times(self.dataset, record.run_id)
            written = self._written[record.run_id].get(record.scenario_id)
        if written is None or written < record.finished_at:
            self.add(record)

    def finish(self) -> None:
        """Write what is waiting, and tidy up the dataset if it has become many small files.

        Raises:
            StorageUnavailable: the rows could not be written; tidying up may fail, another run does it.
        """
        self.write()
        try:
            compact_when_many(self.dataset)
        except StorageUnavailable as error:
            _log.warning("the lineage dataset was not compacted: %s", error)

    def write(self) -> None:
        """Write what is waiting.

        Raises:
            StorageUnavailable: the store did not answer; everything is still waiting.
        """
        with self._lock:
            self._write()

    def _write(self) -> None:
        self.dataset.append([lineage_row(record, self._store) for record in self._waiting.values()])
        self._waiting.clear()


def collect_lineage(dataset: LineageDataset, store: Store) -> int:
    """Write the rows that an output's records have and the dataset lacks; returns how many have one.

    Raises:
        StorageUnavailable: a store did not answer.
    """
    rows, num_records = LineageRows(dataset, store), 0
    for name in store.list("records"):
        record = read_record(store, name.removeprefix("records/").removesuffix(".json"))
        if record is not None and record.status.is_final:
            rows.add_missing(record)
            num_records += 1
    rows.write()
    return num_records


def _finish_times(dataset: LineageDataset, run_id: str) -> dict[str, datetime]:
    """When each scenario of a run had finished, as far as the dataset has a row of it."""

    def question(parts: Sequence[Part]) -> dict[str, datetime]:
        columns = ["scenario_id", "finished_at"]
        rows = dataset.table(parts, columns, where=ds.field("run_id") == run_id).sort_by("finished_at").to_pylist()
        return {row["scenario_id"]: row["finished_at"] for row in rows}

    return dataset.ask(question, run_id=run_id)
