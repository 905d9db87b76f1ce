"""OpenLineage events: into the output by default, to a backend where one is configured, and never at a run's cost."""

from __future__ import annotations

import http.server
import json
import logging
import os
import threading
import uuid

import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Failed, Running

from flows.lineage_hooks import tell_aborted, tell_complete, tell_failed, tell_started
from tasks.lineage_dataset import open_lineage
from tasks.lineage_events import RunEvents, events_name
from tasks.lineage_rows import collect_lineage
from tasks.records import results_row, write_record
from tasks.results import publish_results
from tasks.storage import open_store
from tests.tasks.lineage_records import digest, made

SECRET = "not-for-anyone-else"


@pytest.fixture(autouse=True)
def no_settings(tmp_path, monkeypatch):
    """No settings of the developer's; those that the client itself puts into the environment go with the test."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE") and name not in before]:
        del os.environ[name]


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> str:
    return str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("bucket") + "/out"


@pytest.fixture
def run_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def backend():
    """An HTTP backend: what it was sent, and the status that it answers with."""
    received: list[tuple[str, str | None, dict]] = []
    state = {"status": 201}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, self.headers.get("Authorization"), json.loads(body)))
            self.send_response(state["status"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", received, state
        server.shutdown()


def finished_run(place, run_id):
    """An output with two videos of one run."""
    store, dataset = open_store(place), open_lineage(f"{place}/lineage", create=True)
    records = [made("a", run=run_id, adapters=["its"], parents={"its": "base-1"}), made("b", run=run_id)]
    for record in records:
        write_record(store, record)
    collect_lineage(dataset, store)
    rows = [results_row(record, store, reused=False, run_id=run_id) for record in records]
    publish_results(store, [row | {"row_number": number} for number, row in enumerate(rows)], facts={})
    return store


def written(store, run_id):
    data = store.read_bytes(events_name(run_id)) or b""
    return [json.loads(line) for line in data.splitlines()]


def events(store, run_id):
    return RunEvents(store, run_id=run_id, job="generate-scenarios", manifest="s3://bucket/in/manifest.parquet")


def test_a_run_is_told_from_start_to_end_with_what_went_in_and_out(place, run_id):
    store = finished_run(place, run_id)
    events(store, run_id).start()
    events(store, run_id).complete(f"{place}/lineage")
    start, complete = written(store, run_id)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    for event in (start, complete):
        assert event["run"]["runId"] == run_id
        assert (event["job"]["namespace"], event["job"]["name"]) == ("crossroads", "generate-scenarios")
        assert event["run"]["facets"]["processing_engine"]["name"] == "crossroads"
        assert event["producer"].startswith("pkg:pypi/crossroads@")
    assert [(data["namespace"], data["name"]) for data in start["inputs"]] == [("s3://bucket", "in/manifest.parquet")]

    inputs = {data["name"]: data["facets"].get("version", {}).get("datasetVersion") for data in complete["inputs"]}
    assert inputs == {
        "in/manifest.parquet": None,
        "base/base-1:v1": digest("base-1"),
        "vae/vae.pt": digest("vae"),
        "text_encoder/t5.pt": digest("t5"),
        "adapter/its:v1": digest("its"),
    }
    results, videos, lineage = complete["outputs"]
    assert results["name"].endswith("out/results.parquet")
    assert results["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert {"name": "video_sha256", "type": "string"} in [
        {"name": field["name"], "type": field["type"]} for field in results["facets"]["schema"]["fields"]
    ]
    assert videos["outputFacets"]["outputStatistics"]["fileCount"] == 2
    assert lineage["name"].endswith("out/lineage")
    assert {data["namespace"] for data in complete["outputs"]} == {
        "file" if "://" not in place else "/".join(place.split("/")[:3])
    }


def test_a_backend_is_told_instead_where_one_is_configured(tmp_path, run_id, backend, monkeypatch):
    url, received, _ = backend
    store = finished_run(str(tmp_path / "out"), run_id)
    monkeypatch.setenv("OPENLINEAGE_URL", url)
    monkeypatch.setenv("OPENLINEAGE_API_KEY", SECRET)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "its-nightly")
    events(store, run_id).start()
    events(store, run_id).complete(str(tmp_path / "out" / "lineage"))
    assert [(path, body["eventType"]) for path, _, body in received] == [
        ("/api/v1/lineage", "START"), ("/api/v1/lineage", "COMPLETE"),
    ]  # fmt: skip
    assert {key for _, key, _ in received} == {f"Bearer {SECRET}"}
    assert received[0][2]["job"]["namespace"] == "its-nightly"
    assert SECRET not in json.dumps([body for _, _, body in received])
    assert written(store, run_id) == []


def test_its_own_file_of_settings_counts(tmp_path, run_id):
    settings = {"transport": {"type": "file", "log_file_path": str(tmp_path / "log.jsonl"), "append": True}}
    (tmp_path / "openlineage.yml").write_text(yaml.safe_dump(settings))
    store = open_store(str(tmp_path / "out"))
    events(store, run_id).start()
    assert json.loads((tmp_path / "log.jsonl").read_text())["eventType"] == "START"
    assert written(store, run_id) == []


def test_switched_off_it_writes_nothing(tmp_path, run_id, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    store = open_store(str(tmp_path / "out"))
    events(store, run_id).start()
    assert written(store, run_id) == []


@pytest.mark.parametrize("trouble", ["refused", "errors", "nonsense"])
def test_a_backend_that_does_not_take_it_costs_one_line_in_the_log(
    tmp_path, run_id, backend, monkeypatch, caplog, trouble
):
    url, received, state = backend
    state["status"] = 500
    address = {"refused": "http://user:pw@127.0.0.1:9", "errors": url, "nonsense": "nowhere"}[trouble]
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "http")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__URL", address)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__AUTH", json.dumps({"type": "api_key", "apiKey": SECRET}))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY", json.dumps({"total": 0}))
    store = finished_run(str(tmp_path / "out"), run_id)
    with caplog.at_level(logging.WARNING, logger="tasks"):
        events(store, run_id).start()
        events(store, run_id).complete(str(tmp_path / "out" / "lineage"))
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("tasks")]
    assert "the run goes on" in line
    assert SECRET not in line
    assert "pw" not in line
    assert len(received) == (2 if trouble == "errors" else 0)


def test_an_end_without_results_is_told_with_its_reason(tmp_path, run_id):
    store = open_store(str(tmp_path / "out"))
    events(store, run_id).fail("no such bucket: got s3://key:secret@bucket")
    events(store, run_id).abort()
    fail, abort = written(store, run_id)
    assert (fail["eventType"], abort["eventType"]) == ("FAIL", "ABORT")
    assert fail["run"]["facets"]["errorMessage"]["message"] == "no such bucket: got s3://***@bucket"
    assert fail["outputs"] == []


def test_the_flow_tells_of_itself(tmp_path, run_id):
    from flows.generate_scenarios import generate_scenarios as flow

    assert (flow.on_running_hooks, flow.on_completion_hooks) == ([tell_started], [tell_complete])
    assert (flow.on_failure_hooks, flow.on_crashed_hooks) == ([tell_failed], [tell_failed])
    assert flow.on_cancellation_hooks == [tell_aborted]
    store = finished_run(str(tmp_path / "out"), run_id)
    parameters = {"manifest": "manifest.json", "output": str(tmp_path / "out"), "config": None}
    flow_run = FlowRun(id=run_id, flow_id=uuid.uuid4(), parameters=parameters)
    tell_started(flow, flow_run, Running())
    tell_complete(flow, flow_run, Completed())
    tell_failed(flow, flow_run, Failed(message="Nothing could be done: 1 failed"))
    tell_aborted(flow, flow_run, Cancelled())
    told = written(store, run_id)
    assert [event["eventType"] for event in told] == ["START", "COMPLETE", "FAIL", "ABORT"]
    assert len(told[1]["inputs"]) == 5
    assert told[0]["inputs"][0]["name"] == str(tmp_path / "manifest.json")
    assert told[2]["run"]["facets"]["errorMessage"]["message"] == "Nothing could be done: 1 failed"
