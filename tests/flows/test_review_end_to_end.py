"""Blocked, held, redacted: each as a user sees it, and an approval that outlives another run."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cosmos_core.hashing import sha256_file
from cosmos_core.video_file import read_video
from tests.flows.conftest import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROMPT = "A static traffic CCTV camera captures an intersection. A red sedan turns left and stops."
HELD = f"{PROMPT} A cyclist is injured and lies motionless on the road."


def rows() -> list[dict[str, Any]]:
    return [
        {"input": "frames/billboard.jpg", "prompt": PROMPT, "scenario_id": "face"},
        {"input": "frames/a.png", "prompt": HELD, "scenario_id": "casualty"},
        {"input": "frames/a.png", "prompt": "A driver rams pedestrians on purpose.", "scenario_id": "attack"},
    ]


async def _artifacts(api: str, manifest: str) -> dict[str, Any]:
    import httpx

    async with httpx.AsyncClient(base_url=api) as client:
        runs = (await client.post("/flow_runs/filter", json={"sort": "START_TIME_DESC"})).json()
        run = next(run for run in runs if run["parameters"].get("manifest") == manifest)
        found = (await client.post("/artifacts/filter", json={"flow_runs": {"id": {"any_": [run["id"]]}}})).json()
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_what_was_not_simply_published_is_shown_with_its_reason_and_reviewed(
    workspace: Workspace, prefect_server: str, repository: Path
) -> None:
    shutil.copy(repository / "examples/demo/frames/billboard.jpg", workspace.folder / "frames")
    manifest = str(workspace.write_manifest(rows()))
    done = workspace.generate(manifest)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crossroads review list" in done.stdout
    face, casualty, attack = workspace.results()
    out = workspace.folder / "out"

    # The generator got the picture without the face; the record names both.
    record = workspace.record("face")
    assert (face["status"], dict(face["num_redacted"])["input face"]) == ("published", 1)
    assert record["input_sha256"] == sha256_file(workspace.folder / "frames" / "billboard.jpg")
    assert len(record["redacted_input_sha256"]) == 64
    assert record["release"]["basis"] == "decision"
    [verdict] = [v for v in record["decision"]["verdicts"] if v["check"] == "input.redaction"]
    assert verdict["evidence"]["residual"] == 0

    # The held clip lies apart with its pictures, and is not under videos.
    assert (casualty["status"], casualty["video_uri"]) == ("quarantined", None)
    assert "casualty_nongraphic" in casualty["reason"]
    assert len(casualty["evidence_uris"]) == 3
    clip = out / "quarantine" / "casualty.mp4"
    assert read_video(clip).dtype == np.uint8
    assert sorted(path.stem for path in (out / "videos").iterdir()) == ["face"]
    assert (attack["status"], attack["evidence_uris"]) == ("blocked", [])
    assert "violent_intent" in attack["reason"]

    page = (out / "index.html").read_text()
    assert "1 face covered in the input" in page
    assert page.count('<img src="quarantine/casualty/frame-') == 3
    assert 'src="quarantine/casualty.mp4' not in page
    artifacts = asyncio.run(_artifacts(prefect_server, manifest))
    table = json.loads(artifacts["results"])
    assert [row["status"] for row in table] == ["published", "quarantined", "blocked"]
    assert [row["reason"] for row in table] == [row["reason"] for row in (face, casualty, attack)]
    assert table[0]["redacted"].startswith("1 input face")
    assert "crossroads review approve" in artifacts["review-queue"]
    assert "casualty" in artifacts["review-queue"]
    assert "attack" not in artifacts["review-queue"]

    # A person looks and approves; the blocked one has no clip that could be.
    listed = json.loads(workspace.run("review", "list", "out", "--config", "run.yaml", "--json").stdout)
    assert [(held["scenario_id"], held["review"]) for held in listed] == [("casualty", "open")]
    assert "frame-0000.jpg" in workspace.run("review", "show", "out", "casualty").stdout
    refused = workspace.run("review", "approve", "out", "attack", "--by", "Kim", "--reason", "why not")
    assert (refused.returncode, "not in quarantine" in refused.stderr) == (1, True)
    approved = workspace.run("review", "approve", "out", "casualty", "--by", "Kim", "--reason", "not graphic")
    assert approved.returncode == 0, approved.stderr
    assert sha256_file(out / "videos" / "casualty.mp4") == sha256_file(clip)
    assert workspace.run("audit", "verify", "out").returncode == 0

    # Another run of the manifest neither loses the approval nor makes the clip again.
    made = (out / "videos" / "casualty.mp4").stat().st_mtime_ns
    again = workspace.generate(manifest)
    assert again.returncode == 0, again.stdout + again.stderr
    casualty = workspace.results()[1]
    assert (casualty["status"], casualty["reused"]) == ("published", True)
    assert json.loads(casualty["review"])["by"] == "Kim"
    assert (out / "videos" / "casualty.mp4").stat().st_mtime_ns == made
    assert "approved by Kim: not graphic" in (out / "index.html").read_text()
