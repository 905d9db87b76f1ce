"""Looking at runs and steering them, as a user does who has only the Prefect server."""

from __future__ import annotations

import contextvars
import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.states import Completed, Crashed, Pending, Running

from tasks.records import RESULTS_NAME, invalid_row, results_parquet
from tasks.storage import open_store
from tests.flows.test_submit import crossroads

pytestmark = pytest.mark.e2e


@pytest.fixture
def run(deployed, tmp_path: Path) -> str:
    """A run on the server that nothing serves, so that a test decides on its states."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("generate-scenarios/generate")
        parameters = {"manifest": "m.json", "output": str(tmp_path / "out"), "config": "default"}
        made = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, tags=["manifest:m.json"])
    return str(made.id)


def put(run: str, *states: Any) -> None:
    with get_client(sync_client=True) as client:
        for state in states:
            client.set_flow_run_state(run, state, force=True)


def read(run: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(uuid.UUID(run))


def write_results(output: Path, run: str, number: int) -> None:
    rows = [invalid_row(row, f"s{row}", "no frame", {}, run_id=run) for row in range(number)]
    open_store(str(output)).publish_bytes(results_parquet(rows), RESULTS_NAME, content_type="application/x")


def test_status_counts_the_rows_of_this_run_only(capsys, run, tmp_path):
    put(run, Pending(), Running())
    with get_client(sync_client=True) as client:
        client.create_artifact(ArtifactCreate(type="progress", data=42.0, flow_run_id=uuid.UUID(run)))
    write_results(tmp_path / "out", "another run", 5)
    code, out, _ = crossroads(capsys, "status", run, "--json")
    facts = json.loads(out)
    assert (code, facts["state"], facts["is_final"], facts["progress"]) == (0, "Running", False, 42.0)
    assert facts["counts"] is None
    assert "not of this run" in facts["counts_note"]
    put(run, Completed(name="CompletedWithFailures", message="2 invalid"))
    write_results(tmp_path / "out", run, 2)
    code, out, _ = crossroads(capsys, "status", run)
    assert code == 0
    assert "CompletedWithFailures: 2 invalid" in out
    assert "Rows:     2 invalid" in out


def test_watch_follows_to_the_end_and_its_exit_code_says_which(capsys, run):
    put(run, Pending(), Running())

    def go_on() -> None:
        time.sleep(1)
        put(run, Completed(name="CompletedWithFailures", message="1 failed"))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(go_on,))
    thread.start()
    code, out, _ = crossroads(capsys, "watch", run, "--interval", "0.2")
    thread.join()
    assert code == 3
    assert out.index("Running") < out.index("CompletedWithFailures: 1 failed")
    put(run, Crashed(message="the machine went away"))
    assert crossroads(capsys, "watch", run)[0] == 1
    put(run, Completed())
    assert crossroads(capsys, "watch", run)[0] == 0


def test_cancel_asks_the_run_to_stop_and_refuses_one_that_has_ended(capsys, run):
    put(run, Pending(), Running())
    code, out, _ = crossroads(capsys, "cancel", run)
    assert (code, out.strip()) == (0, f"{run}: Cancelling")
    assert read(run).state.is_cancelling()
    put(run, Completed())
    code, _, err = crossroads(capsys, "cancel", run)
    assert (code, "has ended: got Completed" in err) == (1, True)


def test_a_run_that_nobody_has_begun_is_cancelled_at_once(capsys, run):
    assert crossroads(capsys, "cancel", run)[1].strip() == f"{run}: Cancelled"
    assert read(run).state.is_cancelled()


def test_retry_starts_one_run_with_the_same_parameters(capsys, run, deployed):
    code, _, err = crossroads(capsys, "retry", run)
    assert (code, "goes on" in err) == (1, True)
    put(run, Crashed())
    code, out, _ = crossroads(capsys, "retry", run)
    assert code == 0
    [again] = [found for found in deployed() if str(found.id) != run]
    assert str(again.id) in out
    assert "started before" not in out
    assert again.parameters == read(run).parameters
    assert "manifest:m.json" in again.tags
    assert f"{again.id} (this retry was started before)" in crossroads(capsys, "retry", run)[1]
    assert len(deployed()) == 2


def test_a_run_is_found_by_a_name_that_only_it_has(capsys, run):
    name = read(run).name
    code, out, _ = crossroads(capsys, "status", name, "--json")
    assert (code, json.loads(out)["run_id"]) == (0, run)
    for wrong in ("no-such-name", str(uuid.uuid4())):
        code, _, err = crossroads(capsys, "status", wrong)
        assert (code, len(err.splitlines()), wrong in err) == (1, 1, True)
