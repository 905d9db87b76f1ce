"""The lineage dataset: complete rows, nothing lost or doubled, and answers in both directions."""

from __future__ import annotations

import json
import threading

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from cosmos_core.errors import BadConfig, BadRequest, StorageUnavailable
from tasks.lineage_compaction import compact
from tasks.lineage_dataset import LineageDataset, find_lineage, open_lineage
from tasks.lineage_query import derived_versions, find_runs, find_versions, rows_of, videos_of
from tasks.lineage_rows import LineageRows, collect_lineage
from tasks.lineage_schema import LINEAGE_SCHEMA, lineage_row
from tasks.records import Status, write_record
from tasks.storage import open_store
from tests.tasks.lineage_records import digest, made


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    return str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("bucket") + "/some/out"


@pytest.fixture
def store(place):
    return open_store(place)


@pytest.fixture
def dataset(place) -> LineageDataset:
    return open_lineage(f"{place}/lineage", create=True)


def add(dataset, store, *records):
    dataset.append([lineage_row(record, store) for record in records])


def every_row(dataset):
    return dataset.ask(lambda parts: rows_of(dataset, parts, ds.scalar(True)))


def ids(table):
    return sorted(table.column("scenario_id").to_pylist())


def test_a_row_says_everything_that_made_the_video(dataset, store):
    record = made(adapters=["its"], parents={"its": "base-1"}, sources={"its": "iter_1000"})
    add(dataset, store, record)
    [row] = every_row(dataset)
    assert set(row) == set(LINEAGE_SCHEMA.names)
    unknown = {name for name, value in row.items() if value in (None, [])}
    assert unknown == {"redacted_input_sha256", "reviewed_by", "review"}
    assert row["video_uri"] == f"{store.uri}/videos/a.mp4"
    assert row["output_sha256"] == record.output.sha256
    assert (row["input_sha256"], row["refined_prompt"], row["seed"]) == (digest("input"), "y", 0)
    assert json.loads(row["config"]) == record.config
    assert (row["code_commit"], row["code_dirty"]) == ("c" * 40, True)
    assert dict(row["environment"]) == record.environment
    assert dict(row["timings_s"]) == record.timings_s
    assert row["stages"] == [{"stage": "generate", **record.stages["generate"].model_dump()}]
    assert row["verdicts"][0]["check"] == "video.redaction"

    roles = [version["role"] for version in row["versions"]]
    assert roles == ["base", "vae", "text_encoder", "adapter", "refiner", "guardrail", "guardrail", "guardrail"]
    adapter = row["versions"][3]
    assert adapter == {
        "role": "adapter", "name": "its", "version": "its:v1", "reference": "its@production", "sha256": digest("its"),
        "parent_sha256": digest("base-1"), "source_sha256": digest("iter_1000"), "path": "checkpoints/its.pt",
        "num_bytes": 10, "rank": 16, "alpha": 8.0, "strength": 0.5,
    }  # fmt: skip
    assert {digest(name) for name in ("base-1", "vae", "t5", "its", "template", "lexicon")} <= set(row["uses"])


def test_what_an_adapter_file_says_of_itself_fills_what_nobody_else_knows(store):
    record = made(adapters=["its"])
    plain = record.adapters[0].model_copy(update={"rank": None, "alpha": None})
    manifest = {"base_sha256": digest("base-9"), "base_sha256_of": "file", "rank": 4, "alpha": 2.0}
    record = record.model_copy(
        update={"adapters": (plain,), "proof": {"adapter_origins": {"its": {"manifest": manifest}}}}
    )
    adapter = lineage_row(record, store)["versions"][3]
    assert (adapter["parent_sha256"], adapter["rank"], adapter["alpha"]) == (digest("base-9"), 4, 2.0)


def test_a_scenario_without_a_video_has_a_row_without_versions(dataset, store):
    add(dataset, store, made(status=Status.BLOCKED))
    [row] = every_row(dataset)
    assert (row["status"], row["video_uri"], row["versions"], row["uses"]) == ("blocked", None, [], [])


def test_the_schema_is_explicit_versioned_and_in_every_file(dataset, store, tmp_path):
    add(dataset, store, made())
    [name] = dataset.store.list("rows")
    assert name.startswith("rows/run_id=run-1/")
    table = pq.read_table(pa.BufferReader(dataset.store.read_bytes(name)))
    assert table.schema.equals(LINEAGE_SCHEMA)
    assert table.schema.metadata[b"crossroads.lineage.version"] == b"1"
    later = table.replace_schema_metadata({**table.schema.metadata, b"crossroads.lineage.version": b"2"})
    pq.write_table(later, tmp_path / "later.parquet")
    dataset.store.publish_file(tmp_path / "later.parquet", name, content_type="application/octet-stream")
    with pytest.raises(BadRequest, match=r"another version: got 2, expected 1 to 1"):
        every_row(dataset)
    dataset.store.publish_bytes(b"PAR1 no table", name, content_type="application/octet-stream")
    with pytest.raises(BadRequest, match="no file of a lineage dataset"):
        every_row(dataset)


def test_the_same_rows_again_change_nothing_and_the_last_of_a_scenario_holds(dataset, store):
    records = [made("a"), made("b", run="run-2")]
    add(dataset, store, *records)
    add(dataset, store, *records)
    assert len(dataset.store.list("rows")) == 2
    add(dataset, store, made("a", status=Status.QUARANTINED, hour=1))
    assert [(row["scenario_id"], row["status"]) for row in every_row(dataset)] == [
        ("b", "published"), ("a", "quarantined"),
    ]  # fmt: skip


def test_the_videos_of_a_version_are_found_and_nothing_else(dataset, store):
    add(dataset, store, made("plain"), made("its", adapters=["its"]), made("both", adapters=["night", "its"]))
    add(dataset, store, made("other", run="run-2", base="base-2", adapters=["night"]))
    found = dataset.ask(lambda parts: videos_of(dataset, parts, [digest("its")]))
    assert ids(found) == ["both", "its"]
    assert set(found.column("because").to_pylist()) == {digest("its")}
    assert ids(dataset.ask(lambda parts: videos_of(dataset, parts, [digest("vae")]))) == [
        "both", "its", "other", "plain",
    ]  # fmt: skip
    assert ids(dataset.ask(lambda parts: videos_of(dataset, parts, [digest("nothing")]))) == []


def test_a_withdrawn_base_takes_along_what_was_trained_on_it(dataset, store):
    add(
        dataset,
        store,
        made("on-base", base="base-1"),
        made("sibling", base="base-2", adapters=["its"], parents={"its": "base-1"}),
        made("unrelated", base="base-2", adapters=["night"], parents={"night": "base-2"}),
        # An adapter that was extracted from a checkpoint which was itself trained on the base.
        made("deep", base="base-2", adapters=["late"], sources={"late": "its"}),
    )

    def question(parts):
        derived = derived_versions(parts, [digest("base-1")])
        return derived, videos_of(dataset, parts, [digest("base-1"), *derived])

    derived, found = dataset.ask(question)
    assert [version["name"] for version in derived.values()] == ["its", "late"]
    assert ids(found) == ["deep", "on-base", "sibling"]
    because = dict(zip(found.column("scenario_id").to_pylist(), found.column("because").to_pylist(), strict=True))
    assert because == {"on-base": digest("base-1"), "sibling": digest("its"), "deep": digest("late")}


def test_a_video_that_was_replaced_is_no_longer_current(dataset, store):
    add(dataset, store, made("a", adapters=["its"]), made("b", adapters=["its"]), made("c", adapters=["its"]))
    add(dataset, store, made("a", run="run-2", hour=1), made("b", run="run-2", hour=1, status=Status.BLOCKED))
    found = dataset.ask(lambda parts: videos_of(dataset, parts, [digest("its")]))
    current = dict(zip(found.column("scenario_id").to_pylist(), found.column("current").to_pylist(), strict=True))
    assert current == {"a": False, "b": False, "c": True}


def test_versions_and_runs_are_found_by_any_of_their_names(dataset, store):
    add(dataset, store, made("a", adapters=["its"]), made("b", run="run-20", base="base-2", adapters=["its"]))

    def names(text):
        return dataset.ask(lambda parts: [version["name"] for version in find_versions(parts, text)])

    for text in ("its", "its:v1", "its@production", digest("its"), digest("its")[:8], "checkpoints/its.pt"):
        assert names(text) == ["its"], text
    assert names(digest("its")[:7]) == []
    assert names("it") == []
    assert len(names("its@stable")) == 2
    assert dataset.ask(lambda parts: find_runs(parts, "run-2")) == ["run-20"]
    assert dataset.ask(lambda parts: find_runs(parts, "run")) == ["run-1", "run-20"]


def test_compaction_keeps_every_row_and_every_answer(dataset, store):
    for number in range(7):
        add(dataset, store, made("a", run=f"run-{number}", adapters=["its"] if number % 2 else [], hour=number))
    before = every_row(dataset)
    found = dataset.ask(lambda parts: videos_of(dataset, parts, [digest("its")]))
    assert compact(dataset, rows_per_file=4) == (7, 2)
    assert len(dataset.store.list("rows")) == 2
    assert every_row(dataset) == before
    assert dataset.ask(lambda parts: videos_of(dataset, parts, [digest("its")])).equals(found)
    assert dataset.ask(lambda parts: len(parts), run_id="run-3") == 1
    assert compact(dataset, rows_per_file=4) == (0, 0)


def test_a_compaction_that_was_cut_short_doubles_nothing(dataset, store, monkeypatch):
    add(dataset, store, made("a"), made("b", run="run-2"))
    before = every_row(dataset)
    monkeypatch.setattr(type(store), "remove", lambda self, name: None)
    compact(dataset)
    assert len(dataset.store.list("rows")) == 3
    assert every_row(dataset) == before
    assert len(dataset.ask(lambda parts: videos_of(dataset, parts, [digest("vae")]))) == 2
    monkeypatch.undo()
    compact(dataset)
    [name] = dataset.store.list("rows")
    assert every_row(dataset) == before
    assert pq.ParquetFile(pa.BufferReader(dataset.store.read_bytes(name))).metadata.num_rows == 2


def test_compaction_keeps_the_last_row_of_a_scenario(dataset, store):
    add(dataset, store, made("a", status=Status.QUARANTINED), made("b"))
    add(dataset, store, made("a", hour=2), made("c"))
    add(dataset, store, made("a", status=Status.BLOCKED, hour=1))
    before = every_row(dataset)
    assert [(row["scenario_id"], row["status"]) for row in before] == [
        ("b", "published"), ("c", "published"), ("a", "published"),
    ]  # fmt: skip
    compact(dataset)
    assert every_row(dataset) == before
    [part] = dataset.ask(list)
    assert part.num_rows == 3


def test_a_run_tidies_up_when_there_are_many_files(dataset, store, monkeypatch, caplog):
    monkeypatch.setattr("tasks.lineage_compaction._MANY_FILES", 2)
    for number in range(3):
        rows = LineageRows(dataset, store)
        rows.add(made("a", run=f"run-{number}"))
        assert len(dataset.store.list("rows")) == number
        rows.finish()
    [name] = dataset.store.list("rows")
    assert name.startswith("rows/merged/")
    assert len(every_row(dataset)) == 3

    def fail(dataset):
        raise StorageUnavailable("the bucket did not answer")

    monkeypatch.setattr("tasks.lineage_rows.compact_when_many", fail)
    rows.add(made("b"))
    rows.finish()
    assert len(every_row(dataset)) == 4
    assert "was not compacted: the bucket did not answer" in caplog.text


def test_a_question_is_asked_again_when_a_file_goes_meanwhile(dataset, store):
    add(dataset, store, made("a"), made("b", run="run-2"))
    asked = []

    def question(parts):
        asked.append(len(parts))
        if len(asked) == 1:
            compact(dataset)
        return len(dataset.table(parts, ["scenario_id"]))

    assert dataset.ask(question) == 2
    assert asked == [2, 1]


def test_rows_are_written_in_pieces_and_completely_at_the_end(dataset, store):
    rows = LineageRows(dataset, store, rows_per_file=10)
    records = [made(f"s{number}") for number in range(25)]
    threads = [threading.Thread(target=rows.add, args=[record]) for record in records]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(every_row(dataset)) == 20
    rows.write()
    assert {row["scenario_id"] for row in every_row(dataset)} == {record.scenario_id for record in records}
    rows.add(made("failed", status=Status.FAILED))
    rows.write()
    assert len(every_row(dataset)) == 25


def test_rows_that_could_not_be_written_are_still_waiting(dataset, store, monkeypatch):
    rows = LineageRows(dataset, store, rows_per_file=1)
    monkeypatch.setattr(type(store), "publish_bytes", lambda *_, **__: (_ for _ in ()).throw(ConnectionError))
    with pytest.raises(ConnectionError):
        rows.add(made("a"))
    monkeypatch.undo()
    rows.add(made("a"))
    assert len(every_row(dataset)) == 1


def test_what_an_interrupted_run_left_out_is_collected_from_the_records(dataset, store):
    records = [made("a"), made("b"), made("c", status=Status.BLOCKED), made("d", status=Status.FAILED)]
    for record in records:
        write_record(store, record)
    add(dataset, store, records[0])
    assert collect_lineage(dataset, store) == 3
    assert [row["scenario_id"] for row in every_row(dataset)] == ["a", "b", "c"]
    files = dataset.store.list("rows")
    assert collect_lineage(dataset, store) == 3
    assert dataset.store.list("rows") == files
    write_record(store, made("a", status=Status.QUARANTINED, hour=2))
    collect_lineage(dataset, store)
    assert [row["status"] for row in every_row(dataset) if row["scenario_id"] == "a"] == ["quarantined"]


def test_where_the_dataset_is(tmp_path, monkeypatch):
    monkeypatch.delenv("CROSSROADS_LINEAGE", raising=False)
    assert find_lineage() is None
    assert find_lineage(output="out") == "out/lineage"
    assert find_lineage(configured="shared", output="out") == "shared"
    monkeypatch.setenv("CROSSROADS_LINEAGE", "s3://bucket/lineage")
    assert find_lineage(configured="shared", output="out") == "s3://bucket/lineage"
    assert find_lineage("here", "shared") == "here"
    with pytest.raises(BadConfig, match="no lineage dataset"):
        open_lineage(str(tmp_path / "nothing"))
