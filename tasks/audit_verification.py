"""Whether an audit log is whole: every record as written, in its place, and every scenario's decision among them.

The chain shows what was changed, taken out of the middle, or put in another order. That the end was cut off shows only
against something outside the log: the scenarios' records, which hold their decision's place, and a head that somebody
wrote down elsewhere.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadRequest
from cosmos_core.hashing import sha256_json
from tasks.audit import FOLDER, GENESIS, AuditRow, decode_segment, row_hash, segment_name
from tasks.records import Record, read_record
from tasks.storage import Store

__all__ = ["AuditReport", "verify_audit"]


class AuditReport(BaseModel):
    """What a verification found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_records: int
    num_files: int
    num_scenarios: int
    """Scenarios whose decision was looked for in the log."""
    head: str
    """Hash of the last record: write it down elsewhere, and a log that was cut off later shows."""
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        return not self.problems


def verify_audit(store: Store, *, head: str | None = None) -> AuditReport:
    """Read the whole log and every scenario's record.

    Args:
        head: hash of a record that must be in the log, as an earlier verification gave it.

    Raises:
        StorageUnavailable: the store did not answer.
    """
    chain = _Chain()
    names = store.list(FOLDER)
    # By the names that there should be, so that a file that is missing or has a name of its own shows as such.
    expected = [segment_name(number) for number in range(1, len(names) + 1)]
    chain.problems += [f"{name} is missing" for name in expected if name not in names]
    chain.problems += [f"{name} does not belong here" for name in names if name not in expected]
    for name in names:
        try:
            rows = decode_segment(store.read_bytes(name) or b"", name)
        except BadRequest as error:
            chain.problems.append(str(error))
            chain.is_broken = True
            continue
        for row in rows:
            chain.follow(row, name)
    if head is not None and head not in chain.hashes:
        chain.problems.append(f"no record has the hash {head}: the log was cut off, or is another one")
    scenarios = [
        name.removeprefix("records/").removesuffix(".json") for name in store.list("records") if name.endswith(".json")
    ]
    for scenario_id in scenarios:
        chain.problems += _problems_of_scenario(scenario_id, read_record(store, scenario_id), chain.decisions)
    return AuditReport(
        num_records=len(chain.hashes),
        num_files=len(names),
        num_scenarios=len(scenarios),
        head=chain.last,
        problems=tuple(chain.problems),
    )


class _Chain:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.hashes: set[str] = set()
        self.decisions: dict[str, AuditRow] = {}
        self.last = GENESIS
        self.is_broken = False
        """A file could not be read: what its records were, and so what should follow, is not known."""
        self._sequence = 0

    def follow(self, row: AuditRow, name: str) -> None:
        """Take the next record, and say what is wrong with it."""
        where = f"record {row.sequence} ({name}, {row.scenario_id}, {row.kind})"
        if row_hash(row) != row.hash:
            self.problems.append(f"{where} was changed")
        elif row.hash in self.hashes:
            self.problems.append(f"{where} stands there twice")
        if not self.is_broken and row.sequence != self._sequence + 1:
            self.problems.append(f"{where} stands where record {self._sequence + 1} should: missing or reordered")
        elif not self.is_broken and row.prev_hash != self.last:
            self.problems.append(f"{where} does not follow the record before it")
        self.is_broken = False
        self._sequence, self.last = row.sequence, row.hash
        self.hashes.add(row.hash)
        if row.kind == "decision":
            self.decisions[row.hash] = row


def _problems_of_scenario(scenario_id: str, record: Record | None, decisions: dict[str, AuditRow]) -> list[str]:
    if record is None:
        return [f"records/{scenario_id}.json cannot be read"]
    if record.decision is None:
        return []
    if record.audit is None:
        return [f"{scenario_id} has a decision that was never logged"]
    row = decisions.get(record.audit.hash)
    if row is None or row.sequence != record.audit.sequence:
        return [f"{scenario_id} has a decision whose record {record.audit.sequence} is not in the log"]
    same = (
        row.scenario_id == scenario_id,
        row.job_id == record.job_id,
        row.decision_sha256 == sha256_json(record.decision.model_dump(mode="json")),
        row.video_sha256 == (record.output.sha256 if record.output else None),
    )
    return [] if all(same) else [f"records/{scenario_id}.json says another thing than record {row.sequence} of the log"]
