"""`crossroads lineage`, as a person types it: from the video back, from the version on, locally and in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cosmos_core.errors import BadConfig, BadRequest
from cosmos_core.hashing import sha256_bytes
from flows.cli import app as crossroads
from tasks.lineage_dataset import open_lineage
from tasks.lineage_rows import collect_lineage
from tasks.records import Status, write_record
from tasks.storage import open_store
from tests.tasks.lineage_records import digest, made


def invoke(*arguments):
    result = CliRunner().invoke(crossroads, ["lineage", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def ask(*arguments):
    return json.loads(invoke(*arguments, "--json").stdout)


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path, monkeypatch) -> str:
    """An output with records of two runs and their lineage; the working folder is its parent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSROADS_LINEAGE", raising=False)
    place = "out" if request.param == "local" else request.getfixturevalue("bucket") + "/out"
    store = open_store(place)
    dataset = open_lineage(f"{place}/lineage", create=True)
    store.publish_bytes(b"video a", "videos/a.mp4", content_type="video/mp4")
    video = made("a").output.model_copy(update={"sha256": sha256_bytes(b"video a")})
    for record in (
        made("a", adapters=["its"], parents={"its": "base-1"}, output=video, lineage=dataset.uri),
        made("b", base="base-2", adapters=["night", "its"], parents={"its": "base-1"}, lineage=dataset.uri),
        made("c", run="run-2", base="base-2", adapters=["night"], lineage=dataset.uri),
        made("d", run="run-2", status=Status.BLOCKED, lineage=dataset.uri),
    ):
        write_record(store, record)
    collect_lineage(dataset, store)
    return place


def test_what_made_a_video(output):
    by_record = ask(f"{output}/records/a.json")
    assert (by_record["kind"], by_record["row"]["scenario_id"], by_record["replaced"]) == ("video", "a", False)
    assert by_record["row"]["environment"] == {"torch": "2.13", "gpu": "H100", "driver": "570.86"}
    assert by_record["row"]["config"]["video_crf"] == 18
    assert ask(f"{output}/videos/a.mp4") == by_record
    assert ask(sha256_bytes(b"video a"), "--lineage", f"{output}/lineage") == by_record
    shown = invoke(f"{output}/videos/a.mp4").stdout
    for text in (
        "published",
        "its at strength 0.5",
        "its:v1",
        "base-1:v1",
        digest("base-1")[:12],
        "with changes",
        "H100",
    ):
        assert text in shown, text


def test_what_a_version_made_and_what_falls_with_it(output, monkeypatch):
    monkeypatch.setenv("CROSSROADS_LINEAGE", f"{output}/lineage")
    adapter = ask("its:v1")
    assert (adapter["kind"], adapter["num_own"], adapter["num_to_make_again"]) == ("version", 2, 2)
    assert [parent["version"] for parent in adapter["parents"]] == ["base-1:v1"]
    assert [video["scenario_id"] for video in adapter["videos"]] == ["a", "b"]
    assert ask("its") == ask("its@production") == ask(digest("its")[:10]) == adapter

    # A base takes along what was trained on it, also where that was used on another base.
    base = ask("base-1:v1")
    assert [fact["version"] for fact in base["derived"]] == ["its:v1"]
    assert (base["num_own"], base["num_to_make_again"]) == (1, 2)
    assert base["runs"] == [
        {"run_id": "run-1", "manifest_uri": "manifest.json", "num_videos": 2, "num_current": 2}
    ]  # fmt: skip
    shown = invoke("base-1:v1").stdout
    assert "1 videos were made with it, 1 with what derives from it" in shown
    assert "If it is withdrawn, 2 videos must be made again" in shown
    assert f"{output}/videos/b.mp4  (its:v1)" in shown.replace(str(Path.cwd()) + "/", "")


def test_a_model_file_is_known_by_its_content(output):
    Path("renamed.pt").write_bytes(b"night")
    assert ask("renamed.pt", "--lineage", f"{output}/lineage")["version"]["version"] == "night:v1"


def test_what_a_run_used_and_made(output):
    run = ask("run-2", "--lineage", f"{output}/lineage")
    assert (run["kind"], run["statuses"]) == ("run", {"published": 1, "blocked": 1})
    assert {fact["version"] for fact in run["versions"] if fact["role"] == "adapter"} == {"night:v1"}
    assert "1 published, 1 blocked" in invoke("run-2", "--lineage", f"{output}/lineage").stdout


def test_a_video_that_was_made_again_is_not_to_be_made_again(output):
    dataset, store = open_lineage(f"{output}/lineage"), open_store(output)
    write_record(store, made("a", run="run-3", hour=5, base="base-2"))
    assert "4 records" in invoke("--collect", output).stdout
    found = ask("its:v1", "--lineage", dataset.uri)
    assert {video["scenario_id"]: video["current"] for video in found["videos"]} == {"a": False, "b": True}
    assert (found["num_own"], found["num_to_make_again"]) == (2, 1)
    assert ask(sha256_bytes(b"video a"), "--lineage", dataset.uri)["replaced"] is True
    assert "replaced by a later run" in invoke(sha256_bytes(b"video a"), "--lineage", dataset.uri).stdout


def test_many_files_become_few(output):
    assert invoke("--compact", "--lineage", f"{output}/lineage").stdout == "2 files merged into 1\n"
    assert invoke("--compact", "--lineage", f"{output}/lineage").stdout == "nothing to merge\n"
    assert ask("run-1", "--lineage", f"{output}/lineage")["statuses"] == {"published": 2}


def test_what_is_not_known_or_means_several_things_is_said(output):
    for target in ("its:v9", "run-9", "0" * 64, f"{output}/videos/z.mp4"):
        with pytest.raises(BadRequest, match=r"nothing in .* is known by this name.*--collect"):
            invoke(target, "--lineage", f"{output}/lineage")
    with pytest.raises(BadRequest, match=r"several things: expected one of .*base-1:v1.*base-2:v1"):
        invoke("its@stable", "--lineage", f"{output}/lineage")
    with pytest.raises(BadRequest, match="expected one of run-1, run-2"):
        invoke("run-", "--lineage", f"{output}/lineage")


@pytest.fixture
def lonely(tmp_path, monkeypatch) -> Path:
    """A record without a dataset."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSROADS_LINEAGE", raising=False)
    write_record(open_store("out"), made("a"))
    return tmp_path


def test_a_record_answers_for_its_video_alone(lonely):
    row = ask("out/records/a.json")["row"]
    assert (row["scenario_id"], row["video_uri"]) == ("a", f"{lonely}/out/videos/a.mp4")


def test_without_a_dataset_it_is_said_how_to_name_one(lonely):
    with pytest.raises(BadRequest, match=r"no lineage dataset is named.*--lineage"):
        invoke("its:v1")
    with pytest.raises(BadConfig, match="no lineage dataset is named"):
        invoke("--compact")
    with pytest.raises(BadConfig, match="there is no lineage dataset: got nowhere"):
        invoke("its:v1", "--lineage", "nowhere")
    Path("out/records/b.json").write_text("{}")
    with pytest.raises(BadRequest, match="is no record"):
        invoke("out/records/b.json")


def test_one_thing_at_a_time(lonely):
    assert invoke().exit_code == 2
    assert invoke("a", "--compact").exit_code == 2
