"""prefect.yaml says only what the flows know, and the maintenance flow does what its deployment promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import SignatureMismatchError
from prefect.flows import load_flow_from_entrypoint

from flows.maintenance import maintain
from tasks.config import load_config
from tasks.quarantine import quarantine_name
from tasks.registry import open_registry
from tasks.storage import open_store
from tests.tasks.test_registry import add
from tests.tasks.test_review import hold

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
KNOWN = {
    "name", "entrypoint", "description", "tags", "enforce_parameter_schema", "parameters", "schedules",
    "concurrency_limit", "work_pool",
}  # fmt: skip
"""Prefect ignores a key that it does not know, so a misspelt one would never show."""

each = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])


@each
def test_entrypoint_and_parameters_exist(deployment, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = load_flow_from_entrypoint(deployment["entrypoint"])
    found.validate_parameters(deployment["parameters"])
    with pytest.raises(SignatureMismatchError, match="no_such"):
        found.validate_parameters(deployment["parameters"] | {"no_such": 1})
    if "config" in deployment["parameters"]:
        load_config(Path(deployment["parameters"]["config"]))


@each
def test_keys_schedules_and_limits_are_what_prefect_knows(deployment):
    assert set(deployment) <= KNOWN
    assert set(deployment["concurrency_limit"]) == {"limit", "collision_strategy"}
    assert deployment["concurrency_limit"]["collision_strategy"] in {"ENQUEUE", "CANCEL_NEW"}
    for schedule in deployment.get("schedules", []):
        if "cron" in schedule:
            CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
        else:
            IntervalSchedule(interval=schedule["interval"])
        # Nobody's machine begins to work because somebody applied a file.
        assert schedule["active"] is False


def test_an_inbox_starts_what_is_deployed_here():
    by_name = {deployment["name"]: deployment for deployment in DEPLOYMENTS}
    assert set(by_name) == {"generate", "nightly", "inbox", "maintenance"}
    flow_name, name = by_name["inbox"]["parameters"]["deployment"].split("/")
    assert load_flow_from_entrypoint(str(ROOT / by_name[name]["entrypoint"])).name == flow_name


@pytest.mark.e2e
@pytest.mark.slow
def test_prefect_applies_them_all(api, tmp_path):
    environment = os.environ | {"PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path)}

    def prefect(*arguments: str) -> None:
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr

    prefect("work-pool", "create", "crossroads", "--type", "process", "--overwrite")
    try:
        prefect("deploy", "--all")
        applied = {row["name"]: row for row in httpx.post(f"{api}/deployments/filter", json={}).json()}
        for deployment in DEPLOYMENTS:
            row = applied[deployment["name"]]
            assert row["parameters"] == deployment["parameters"]
            assert (
                row["concurrency_options"]["collision_strategy"]
                == deployment["concurrency_limit"]["collision_strategy"]
            )
            assert row["global_concurrency_limit"]["limit"] == 1
            assert [schedule["active"] for schedule in row["schedules"]] == [False] * len(row["schedules"])
            assert len(row["schedules"]) == len(deployment.get("schedules", []))
            assert row["job_variables"]["env"] == {"PREFECT_LOGGING_EXTRA_LOGGERS": "cosmos_core,tasks"}
            # The form in the UI explains each parameter.
            described = row["parameter_openapi_schema"]["properties"].values()
            assert all(parameter.get("description") for parameter in described)
    finally:
        prefect("work-pool", "delete", "crossroads")


@pytest.mark.e2e
class TestMaintenance:
    def test_it_expires_only_what_it_is_told_to(self, api, tmp_path):
        store = open_store(str(tmp_path / "results" / "night"))
        hold(store, tmp_path, "a")
        state = maintain(str(tmp_path / "results"), return_state=True)
        assert state.is_completed()
        assert state.message == "1 outputs: 1 videos read, 0 problems, 0 files expired"
        assert store.size(quarantine_name("a"))
        state = maintain(str(tmp_path / "results"), expire_after_days=1, return_state=True)
        assert state.is_completed()
        assert state.message.startswith("1 outputs: 0 videos read, 0 problems, ")
        assert store.size(quarantine_name("a")) is None

    def test_a_changed_video_fails_the_run_and_stands_in_its_table(self, api, tmp_path):
        store = open_store(str(tmp_path / "out"))
        hold(store, tmp_path, "a")
        store.publish_bytes(b"another video", quarantine_name("a"), content_type="video/mp4")
        registry = open_registry(str(tmp_path / "registry"), create=True)
        registry.move_alias("its-collision", "production", add(registry, "one"))
        add(registry, "two")
        state = maintain(store.uri, registry=str(tmp_path / "registry"), return_state=True)
        assert state.is_failed()
        assert state.message == "1 outputs: 1 videos read, 1 problems, 0 files expired"
        run = {"flow_runs": {"id": {"any_": [str(state.state_details.flow_run_id)]}}}
        artifacts = {row["key"]: row["data"] for row in httpx.post(f"{api}/artifacts/filter", json=run).json()}
        assert "was changed" in artifacts["maintenance-problems"]
        assert "its-collision:v2" in artifacts["versions-without-alias"]
        assert "its-collision:v1" not in artifacts["versions-without-alias"]
