"""The decision log: what every check said and what was decided on it, appended and never changed.

Records are chained: each holds the hash of the one before, so a changed, missing or reordered one shows. They lie below
`audit/` in the output as small Parquet files with consecutive numbers, readable as one table. A file is created only if
its name is free, so that several runs may write to one output: whoever loses a race reads the new end and goes on from
there. A decision is appended before anything of its scenario is published; the scenario's record holds its place.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from cosmos_core.errors import BadRequest, StorageUnavailable
from cosmos_core.hashing import canonical_json, sha256_json
from tasks.storage import Store
from tasks.verdicts import Decision, Verdict

__all__ = [
    "FOLDER",
    "GENESIS",
    "SCHEMA",
    "AuditEntry",
    "AuditLog",
    "AuditMark",
    "AuditRow",
    "decision_entries",
    "decode_segment",
    "row_hash",
    "segment_name",
]

FOLDER = "audit"
GENESIS = "0" * 64
"""What the first record follows."""

_MAX_ATTEMPTS = 50


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AuditMark(_Part):
    """Where in the log a record stands."""

    sequence: int
    hash: str


class AuditEntry(_Part):
    """One thing to log. Fields that do not concern its kind stay empty."""

    kind: Literal["check", "decision", "review"]
    """`check`: what one check said. `decision`: what was decided on all of them. `review`: what a person decided."""
    run_id: str | None = None
    scenario_id: str
    job_id: str | None = None
    input_sha256: str | None = None
    video_sha256: str | None = None
    """Of the encoded clip that was decided on; none for a decision before generation."""
    policy_id: str | None = None
    policy_version: int | None = None
    policy_sha256: str | None = None
    stage: str | None = None
    check: str | None = None
    status: str | None = None
    category: str | None = None
    other_categories: tuple[str, ...] = ()
    score: float | None = None
    backend: str | None = None
    model: str | None = None
    revision: str | None = None
    duration_s: float | None = None
    evidence: str | None = None
    """JSON."""
    action: str | None = None
    """Of the policy for a decision; what the person did for a review."""
    reasons: tuple[str, ...] = ()
    requested_checks: tuple[str, ...] = ()
    effective_checks: tuple[str, ...] = ()
    decision_sha256: str | None = None
    """Hash of the whole decision as it stands in the scenario's record."""
    actor: str | None = None
    note: str | None = None


class AuditRow(AuditEntry):
    """An entry in its place."""

    sequence: int
    """Counts from 1 without a gap over all files."""
    recorded_at: datetime
    prev_hash: str
    hash: str


_TYPES: dict[str, pa.DataType] = {
    "sequence": pa.int64(),
    "recorded_at": pa.timestamp("us", tz="UTC"),
    "policy_version": pa.int32(),
    "score": pa.float64(),
    "duration_s": pa.float64(),
    **dict.fromkeys(("other_categories", "reasons", "requested_checks", "effective_checks"), pa.list_(pa.string())),
}
_ORDER = ("sequence", "recorded_at", *AuditEntry.model_fields, "prev_hash", "hash")
SCHEMA = pa.schema(
    [pa.field(name, _TYPES.get(name, pa.string())) for name in _ORDER], metadata={"crossroads.audit.version": "1"}
)


def decision_entries(
    decision: Decision,
    *,
    run_id: str,
    scenario_id: str,
    job_id: str,
    input_sha256: str | None,
    video_sha256: str | None,
) -> list[AuditEntry]:
    """One entry for each verdict of a decision, and last the decision itself."""
    common: dict[str, Any] = {
        "run_id": run_id,
        "scenario_id": scenario_id,
        "job_id": job_id,
        "input_sha256": input_sha256,
        "video_sha256": video_sha256,
        "policy_id": decision.policy_id,
        "policy_version": decision.policy_version,
        "policy_sha256": decision.policy_sha256,
    }
    decided = AuditEntry(
        kind="decision",
        action=decision.action,
        reasons=decision.reasons,
        requested_checks=decision.requested_checks,
        effective_checks=decision.effective_checks,
        decision_sha256=sha256_json(decision.model_dump(mode="json")),
        **common,
    )
    return [*(_of_check(verdict, common) for verdict in decision.verdicts), decided]


def _of_check(verdict: Verdict, common: dict[str, Any]) -> AuditEntry:
    return AuditEntry(
        kind="check",
        **verdict.model_dump(exclude={"evidence"}),
        evidence=canonical_json(verdict.model_dump(mode="json")["evidence"]),
        **common,
    )


class AuditLog:
    """The log of one output. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._end: tuple[int, AuditMark] | None = None
        self._marks: dict[str, AuditMark] = {}

    def append(self, entries: Sequence[AuditEntry], *, once: str | None = None) -> AuditMark:
        """Append some entries as one file, all or none; returns where the last of them stands.

        Args:
            once: a name under which this object appends only once, for callers that are retried.

        Raises:
            StorageUnavailable: the store did not answer, or others were faster again and again.
            BadRequest: the end of the log cannot be read.
        """
        assert entries, "nothing to log"
        with self._lock:
            if once is not None and once in self._marks:
                return self._marks[once]
            for _ in range(_MAX_ATTEMPTS):
                number, end = self._end or self._read_end()
                rows = _chained(entries, end)
                data = _encoded(rows)
                name = segment_name(number + 1)
                if self._store.publish_new_bytes(data, name, content_type="application/vnd.apache.parquet"):
                    mark = AuditMark(sequence=rows[-1].sequence, hash=rows[-1].hash)
                    self._end = (number + 1, mark)
                    if once is not None:
                        self._marks[once] = mark
                    return mark
                self._end = None
                time.sleep(random.uniform(0.0, 0.05))
        raise StorageUnavailable("the audit log could not be appended to", got=f"{_MAX_ATTEMPTS} lost races")

    def rows(self) -> Iterator[AuditRow]:
        """All records in the order of their files, unverified.

        Raises:
            BadRequest: a file cannot be read.
        """
        for name in self._store.list(FOLDER):
            yield from decode_segment(self._store.read_bytes(name) or b"", name)

    def _read_end(self) -> tuple[int, AuditMark]:
        names = self._store.list(FOLDER)
        if not names:
            return 0, AuditMark(sequence=0, hash=GENESIS)
        last = decode_segment(self._store.read_bytes(names[-1]) or b"", names[-1])[-1]
        return int(names[-1].removeprefix(f"{FOLDER}/").removesuffix(".parquet")), AuditMark(
            sequence=last.sequence, hash=last.hash
        )


def segment_name(number: int) -> str:
    """Name of the file with a number, counted from 1."""
    return f"{FOLDER}/{number:09d}.parquet"


def row_hash(row: AuditRow) -> str:
    """The hash that a record should have: over all of its other fields, the hash of the one before included."""
    return sha256_json(row.model_dump(mode="json", exclude={"hash"}))


def decode_segment(data: bytes, name: str) -> list[AuditRow]:
    """The records of one file.

    Raises:
        BadRequest: it is no file of this log, or an empty one.
    """
    try:
        found = pq.read_table(pa.BufferReader(data)).to_pylist()
        rows = [AuditRow.model_validate(row) for row in found]
    except (pa.ArrowException, OSError, ValidationError) as error:
        raise BadRequest(f"{name} is no file of an audit log", got=str(error).split("\n")[0]) from error
    if not rows:
        raise BadRequest(f"{name} is no file of an audit log", got="no records")
    return rows


def _chained(entries: Sequence[AuditEntry], end: AuditMark) -> list[AuditRow]:
    now = datetime.now(UTC)
    rows: list[AuditRow] = []
    for offset, entry in enumerate(entries, 1):
        row = AuditRow(
            **entry.model_dump(), sequence=end.sequence + offset, recorded_at=now,
            prev_hash=rows[-1].hash if rows else end.hash, hash="",
        )  # fmt: skip
        rows.append(row.model_copy(update={"hash": row_hash(row)}))
    return rows


def _encoded(rows: Sequence[AuditRow]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row.model_dump() for row in rows], schema=SCHEMA), sink)
    return bytes(sink.getvalue())
