"""The results of a run for people and programs: the table, and the contact sheet beside it.

Written at the end of a run and again when a person reviews a held clip. The records are the truth: what the table says
of a reviewed scenario follows from its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.contact_sheet import contact_sheet
from tasks.device_time import device_time
from tasks.records import RESULTS_NAME, Status, read_record, read_results, results_parquet, results_row
from tasks.storage import Store

__all__ = ["publish_results", "refresh_results", "with_reviews"]

Row = dict[str, Any]

_OWN = ("row_number", "reused", "run_id", "output_name", "labels")
"""Columns of a row that its run decides, not the record."""
_MAX_ROUNDS = 5


def with_reviews(store: Store, rows: Sequence[Row]) -> list[Row]:
    """The rows with what persons have decided since they were made, as far as it is about the same job."""
    return [_reviewed(store, row) for row in rows]


def publish_results(store: Store, rows: Sequence[Row], *, facts: dict[str, str]) -> None:
    """Write the contact sheet and, last of all, the results table; each replaces the former one as a whole."""
    page = contact_sheet(rows, title="Crossroads run", facts=facts)
    store.publish_bytes(page, "index.html", content_type="text/html; charset=utf-8")
    store.publish_bytes(results_parquet(list(rows)), RESULTS_NAME, content_type="application/vnd.apache.parquet")


def refresh_results(store: Store) -> list[Row] | None:
    """Bring the table and the contact sheet of a finished run up to date with the reviews; None if there is no table.

    Two persons may do this at once: whoever wrote last looks again and mends what the other could not know of.
    """
    rows = read_results(store)
    for _ in range(_MAX_ROUNDS):
        if rows is None:
            return None
        fresh = with_reviews(store, rows)
        if [row["review"] for row in fresh] == [row["review"] for row in rows]:
            break
        publish_results(store, fresh, facts=_facts(store, fresh))
        rows = read_results(store)
    return rows


def _reviewed(store: Store, row: Row) -> Row:
    if row["scenario_id"] is None or row["status"] != Status.QUARANTINED:
        return row
    record = read_record(store, row["scenario_id"])
    if record is None or record.review is None or record.job_id != row["job_id"]:
        return row
    return results_row(record, store, reused=row["reused"], run_id=row["run_id"]) | {name: row[name] for name in _OWN}


def _facts(store: Store, rows: Sequence[Row]) -> dict[str, str]:
    """What holds for the whole run, as far as a record of it tells."""
    names = [row["scenario_id"] for row in rows if row["record_uri"]]
    records = (read_record(store, name) for name in names)
    record = next((record for record in records if record is not None and record.decision is not None), None)
    facts = {"run": rows[0]["run_id"], "rows": str(len(rows))} if rows else {}
    if record is not None and record.decision is not None:
        facts = {"manifest": record.manifest_uri} | facts
        facts["policy"] = f"{record.decision.policy_id} v{record.decision.policy_version}"
    if used := device_time(rows):
        facts["device time"] = used
    return facts
