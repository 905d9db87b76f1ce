"""Records and results: what is written comes back, and every manifest row has exactly one outcome."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.contact_sheet import contact_sheet
from tasks.records import (
    RESULTS_SCHEMA,
    CodeVersion,
    Output,
    Record,
    Status,
    invalid_row,
    read_record,
    results_parquet,
    results_row,
    write_record,
)
from tasks.scenario import Scenario
from tasks.storage import open_store


def scenario(row_number: int = 0, scenario_id: str = "a") -> Scenario:
    return Scenario(
        row_number=row_number,
        scenario_id=scenario_id,
        input="frames/a.png",
        input_uri="/data/frames/a.png",
        prompt="A <b>static</b> traffic camera.",
        labels={"weather": "rain"},
        output_name="clips/a.mp4",
    )


def record(status: Status = Status.PUBLISHED, **changes) -> Record:
    output = Output(video="videos/a.mp4", sha256="f" * 64, num_bytes=3, width=192, height=112, num_frames=61, fps=10)
    fields = {
        "scenario_id": "a",
        "status": status,
        "reason": "",
        "job_id": "j" * 64,
        "scenario": scenario(),
        "output": output if status is Status.PUBLISHED else None,
        "timings_s": {"generate": 2.0, "check": 0.5},
        "code": CodeVersion(package="0.1.0", core="1"),
        "manifest_uri": "manifest.json",
        "manifest_sha256": "0" * 64,
        "run_id": "run-1",
        "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
    }
    return Record(**(fields | changes))


def test_a_record_comes_back_as_it_was_written(tmp_path):
    store = open_store(str(tmp_path))
    write_record(store, record())
    assert read_record(store, "a") == record()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"record_version": 99}', b"\xff"])
def test_what_is_not_a_record_counts_as_none(tmp_path, content):
    store = open_store(str(tmp_path))
    store.publish_bytes(content, "records/a.json", content_type="application/json")
    assert read_record(store, "a") is None


def test_results_have_one_row_for_each_manifest_row_in_order(tmp_path):
    store = open_store(str(tmp_path))
    rows = [
        results_row(record(scenario=scenario(1)), store, reused=False, run_id="run-1"),
        invalid_row(0, None, "fps: got 12", {"input": "x", "prompt": 7}, run_id="run-1"),
    ]
    table = pq.read_table(pa.BufferReader(results_parquet(rows)))
    assert table.schema.equals(RESULTS_SCHEMA)
    assert table.schema.metadata[b"crossroads.results.version"] == b"1"
    first, second = table.to_pylist()
    assert (first["row_number"], first["status"], first["input"], first["prompt"]) == (0, "invalid", "x", None)
    assert (second["row_number"], second["status"], second["seconds"]) == (1, "published", 2.5)
    assert second["labels"] == [("weather", "rain")]
    assert second["video_uri"] == f"{tmp_path}/videos/a.mp4"
    with pytest.raises(AssertionError, match="two outcomes"):
        results_parquet([rows[0], rows[0]])


def test_only_a_publication_has_a_video_address(tmp_path):
    store = open_store(str(tmp_path))
    output = record().output.model_copy(update={"video": "quarantine/a.mp4"})
    row = results_row(record(Status.QUARANTINED, output=output), store, reused=False, run_id="r")
    assert row["video_uri"] is None
    assert row["record_uri"] is not None


def test_the_contact_sheet_shows_every_row_and_escapes_what_it_is_given(tmp_path):
    store = open_store(str(tmp_path))
    rows = [
        results_row(record(), store, reused=False, run_id="r"),
        invalid_row(1, "b", "<script>alert(1)</script>", {"prompt": "p"}, run_id="r"),
    ]
    page = contact_sheet(rows, title="Run", facts={"manifest": "m.json"}).decode()
    assert 'src="videos/a.mp4#t=0.01"' in page
    assert 'href="records/a.json"' in page
    assert "<script>" not in page
    assert "&lt;b&gt;static&lt;/b&gt;" in page
    assert page.count("<article>") == 2
    assert "1 published" in page
    assert "1 invalid" in page
