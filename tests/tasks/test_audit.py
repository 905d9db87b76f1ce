"""The audit log: what was changed, taken away or moved shows; writers at the same time lose nothing."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.audit import GENESIS, AuditEntry, AuditLog, AuditMark, decision_entries, decode_segment, segment_name
from tasks.audit_verification import verify_audit
from tasks.records import CodeVersion, Output, Record, Status, read_record, record_name, write_record
from tasks.scenario import Scenario
from tasks.storage import Store, open_store
from tasks.verdicts import Decision, Verdict

JOB, VIDEO = "j" * 64, "f" * 64


def decision(scenario_id: str, *, action: str = "review") -> Decision:
    verdicts = (
        Verdict(stage="prompt", check="text.lexicon", status="pass", backend="lexicon", model="its", revision="1"),
        Verdict(stage="video", check="video.content", status="flag", category="violence", other_categories=("drugs",),
                score=0.875, backend="siglip", evidence={"scenario": scenario_id, "frames": [1, 2]}),
    )  # fmt: skip
    return Decision(
        action=action, reasons=("video/video.content flagged violence",), policy_id="its-accident", policy_version=2,
        policy_sha256="p" * 64, requested_checks=("prompt/text.lexicon",), effective_checks=("prompt/text.lexicon",),
        verdicts=verdicts,
    )  # fmt: skip


def log_scenario(log: AuditLog, store: Store, scenario_id: str) -> AuditMark:
    """What publishing does: log, then record."""
    decided = decision(scenario_id)
    entries = decision_entries(
        decided, run_id="r", scenario_id=scenario_id, job_id=JOB, input_sha256="i" * 64, video_sha256=VIDEO
    )
    mark = log.append(entries)
    scenario = Scenario(
        row_number=0, scenario_id=scenario_id, input="a", input_uri="a", prompt="p", output_name=scenario_id
    )
    output = Output(video="quarantine/a.mp4", sha256=VIDEO, num_bytes=3, width=1, height=1, num_frames=1, fps=1)
    write_record(store, Record(
        scenario_id=scenario_id, status=Status.QUARANTINED, reason="", job_id=JOB, scenario=scenario, decision=decided,
        audit=mark, output=output, code=CodeVersion(package="0", core="1"), manifest_uri="m", manifest_sha256="0",
        run_id="r", finished_at=datetime(2026, 1, 2, tzinfo=UTC),
    ))  # fmt: skip
    return mark


@pytest.fixture
def store(tmp_path) -> Store:
    """An output with four scenarios of three records each."""
    opened = open_store(str(tmp_path / "out"))
    log = AuditLog(opened)
    for name in ("a", "b", "c", "d"):
        log_scenario(log, opened, name)
    return opened


def rewrite(store: Store, number: int, change) -> None:
    table = pq.read_table(pa.BufferReader(store.read_bytes(segment_name(number))))
    rows = table.to_pylist()
    change(rows)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), sink)
    store.publish_bytes(bytes(sink.getvalue()), segment_name(number), content_type="x")


# --- whole


def test_a_log_that_was_left_alone_is_whole(store):
    report = verify_audit(store)
    assert report.problems == ()
    assert (report.num_records, report.num_files, report.num_scenarios) == (12, 4, 4)
    assert verify_audit(store, head=report.head).is_whole
    rows = list(AuditLog(store).rows())
    assert [row.sequence for row in rows] == list(range(1, 13))
    assert rows[0].prev_hash == GENESIS
    assert [row.kind for row in rows[:3]] == ["check", "check", "decision"]
    assert rows[-1].hash == report.head


def test_the_log_is_one_table(store):
    table = pq.read_table(f"{store.root}/audit", filters=[("category", "==", "violence")])
    assert table["scenario_id"].to_pylist() == ["a", "b", "c", "d"]
    assert set(table["score"].to_pylist()) == {0.875}


def test_an_empty_output_is_whole_and_has_no_head(tmp_path):
    report = verify_audit(open_store(str(tmp_path)))
    assert (report.is_whole, report.head, report.num_records) == (True, GENESIS, 0)


def test_a_table_that_was_only_written_anew_is_the_same_log(store):
    rewrite(store, 2, lambda rows: None)
    assert verify_audit(store).is_whole


# --- not whole

FIELDS = {
    "status": "pass", "category": "vehicle_collision", "score": 0.1, "scenario_id": "z", "backend": "other",
    "evidence": "{}", "policy_sha256": "q" * 64, "recorded_at": datetime(2020, 1, 1, tzinfo=UTC), "sequence": 99,
    "other_categories": [], "video_sha256": "0" * 64, "prev_hash": "0" * 64, "hash": "1" * 64,
}  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_field_shows_and_says_where(store, field):
    def change(rows):
        assert rows[1][field] != FIELDS[field]
        rows[1][field] = FIELDS[field]

    rewrite(store, 2, change)
    problems = verify_audit(store).problems
    assert any(f"({segment_name(2)}" in problem and "was changed" in problem for problem in problems), problems


def test_a_changed_decision_shows_in_its_scenario_as_well(store):
    rewrite(store, 3, lambda rows: rows[2].update(action="allow"))
    problems = verify_audit(store).problems
    assert problems[0].startswith("record 9 (audit/000000003.parquet, c, decision) was changed")


def test_a_change_whose_hashes_were_made_anew_breaks_the_chain_and_the_scenario(store):
    def forge(rows):
        from tasks.audit import AuditRow, row_hash

        previous = rows[0]["prev_hash"]
        for row in rows:
            row["prev_hash"] = previous
            if row["kind"] == "decision":
                row["action"] = "allow"
            row["hash"] = previous = row_hash(AuditRow.model_validate(row))

    rewrite(store, 2, forge)
    problems = verify_audit(store).problems
    assert problems[0].startswith("record 7 ")
    assert "does not follow" in problems[0]
    assert "b has a decision whose record 6 is not in the log" in problems


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows.pop(1), "record 6 (audit/000000002.parquet, b, decision) stands where record 5 should"),
        (lambda rows: rows.reverse(), "record 6 (audit/000000002.parquet, b, decision) stands where record 4 should"),
        (lambda rows: rows.append(rows[0]), "record 4 (audit/000000002.parquet, b, check) stands there twice"),
        (lambda rows: rows.clear(), "audit/000000002.parquet is no file of an audit log: got no records"),
    ],
)
def test_a_missing_moved_or_repeated_record_shows(store, change, says):
    rewrite(store, 2, change)
    assert any(problem.startswith(says) for problem in verify_audit(store).problems)


def test_a_missing_file_shows(store):
    store.remove(segment_name(2))
    problems = verify_audit(store).problems
    assert "audit/000000002.parquet is missing" in problems
    assert any("stands where record 4 should: missing" in problem for problem in problems)
    assert "b has a decision whose record 6 is not in the log" in problems


def test_two_files_that_changed_places_show(store):
    second, third = store.read_bytes(segment_name(2)), store.read_bytes(segment_name(3))
    store.publish_bytes(second, segment_name(3), content_type="x")
    store.publish_bytes(third, segment_name(2), content_type="x")
    assert any("stands where record 4 should: missing or reordered" in p for p in verify_audit(store).problems)


def test_an_end_that_was_cut_off_shows_against_the_records_and_against_a_head(store):
    head = verify_audit(store).head
    store.remove(segment_name(4))
    assert verify_audit(store).problems == ("d has a decision whose record 12 is not in the log",)
    store.remove(record_name("d"))
    assert verify_audit(store).is_whole
    [problem] = verify_audit(store, head=head).problems
    assert "cut off" in problem


def test_what_is_no_log_file_shows(store):
    store.publish_bytes(b"PAR1 not really", segment_name(3), content_type="x")
    problems = verify_audit(store).problems
    assert any(problem.startswith("audit/000000003.parquet is no file of an audit log") for problem in problems)
    assert not any("record 10 " in problem for problem in problems)  # what follows the hole is not blamed for it


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "k" * 64},
        {"audit": None},
        {"audit": AuditMark(sequence=3, hash="0" * 64)},
        {"decision": decision("a", action="allow")},
    ],
    ids=["job", "no place", "wrong place", "decision"],
)
def test_a_changed_scenario_record_shows(store, change):
    write_record(store, read_record(store, "a").model_copy(update=change))
    [problem] = verify_audit(store).problems
    assert problem.startswith(("a has a decision", "records/a.json says another thing"))


# --- writing


def test_writers_at_the_same_time_make_one_chain(tmp_path):
    opened = open_store(str(tmp_path))
    logs = [AuditLog(opened) for _ in range(4)]  # as in four processes: none knows of the others

    def write(log: AuditLog, number: int) -> None:
        for index in range(5):
            log.append([AuditEntry(kind="review", scenario_id=f"{number}-{index}", action="approve", actor="a")] * 2)

    threads = [threading.Thread(target=write, args=(log, number)) for number, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report = verify_audit(opened)
    assert (report.problems, report.num_records, report.num_files) == ((), 40, 20)


def test_a_caller_that_is_retried_logs_once(tmp_path):
    log = AuditLog(open_store(str(tmp_path)))
    entry = AuditEntry(kind="review", scenario_id="a")
    first = log.append([entry], once="a")
    assert log.append([entry], once="a") == first
    assert log.append([entry], once="b").sequence == 2


def test_a_later_run_goes_on_where_the_log_ends(store):
    before = verify_audit(store).head
    mark = log_scenario(AuditLog(open_store(store.uri)), store, "e")
    assert mark.sequence == 15
    rows = decode_segment(store.read_bytes(segment_name(5)), "x")
    assert rows[0].prev_hash == before
    assert verify_audit(store, head=before).is_whole


def test_the_log_works_in_a_bucket(bucket):
    opened = open_store(f"{bucket}/out")
    for name in ("a", "b"):
        log_scenario(AuditLog(opened), opened, name)
    assert verify_audit(opened).problems == ()
    rewrite(opened, 1, lambda rows: rows[0].update(status="flag"))
    assert "was changed" in verify_audit(opened).problems[0]


# --- the command


def test_the_command_verifies_and_shows(store):
    runner = CliRunner()
    done = runner.invoke(app, ["audit", "verify", store.uri])
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "12 records in 4 files, 4 scenarios: whole")
    shown = runner.invoke(app, ["audit", "show", store.uri, "--scenario", "b", "--category", "drugs"])
    assert "flag violence, drugs 0.88" in shown.stdout
    assert shown.stdout.count("siglip") == 1
    nothing = runner.invoke(app, ["audit", "show", store.uri, "--category", "sexual", "--json"])
    assert nothing.stdout.strip() == "[]"
    rewrite(store, 2, lambda rows: rows[0].update(status="flag"))
    done = runner.invoke(app, ["audit", "verify", store.uri])
    assert done.exit_code == 1
    assert "record 4 (audit/000000002.parquet, b, check) was changed" in done.stdout
