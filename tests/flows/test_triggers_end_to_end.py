"""From a manifest in the inbox to videos: deployments applied, a worker serving them, nobody starting the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.flows.conftest import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROMPT = "A static traffic CCTV camera captures an intersection. A red sedan turns left and stops."


def prefect(workspace: Workspace, *arguments: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=folder or workspace.folder,
        env=workspace.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def served(workspace: Workspace, repository: Path) -> Iterator[Workspace]:
    prefect(workspace, "work-pool", "create", "crossroads", "--type", "process", "--overwrite")
    prefect(workspace, "deploy", "--all", folder=repository)
    yield workspace
    prefect(workspace, "work-pool", "delete", "crossroads")


def serve_once(workspace: Workspace) -> None:
    """Take up the runs that wait, and see them to their end."""
    prefect(workspace, "worker", "start", "--pool", "crossroads", "--run-once")


def test_a_manifest_in_the_inbox_becomes_videos_and_a_retry_reuses_them(served: Workspace) -> None:
    workspace, inbox = served, served.folder / "inbox"
    shutil.copytree(workspace.folder / "frames", inbox / "frames")
    row: dict[str, Any] = {"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "x", "num_steps": 1}
    (inbox / "night.json").write_text(json.dumps([row]))
    prefect(
        workspace, "deployment", "run", "watch-inbox/inbox",
        "--param", f"inbox={inbox}",
        "--param", f"config={workspace.folder / 'run.yaml'}",
        "--param", "settle_s=0",
    )  # fmt: skip
    serve_once(workspace)
    [started] = [json.loads(file.read_text()) for file in (inbox / "started").iterdir()]
    serve_once(workspace)

    seen = workspace.run("watch", started["run_id"])
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "Rows:     1 published" in seen.stdout
    output = Path(started["parameters"]["output"])
    first = pq.read_table(output / "results.parquet").to_pylist()
    assert (output / "videos" / "x.mp4").is_file()

    again = workspace.run("retry", started["run_id"])
    assert again.returncode == 0, again.stdout + again.stderr
    serve_once(workspace)
    second = pq.read_table(output / "results.parquet").to_pylist()
    assert [row["reused"] for row in first + second] == [False, True]
    assert second[0]["run_id"] in again.stdout
    assert second[0]["video_sha256"] == first[0]["video_sha256"]
