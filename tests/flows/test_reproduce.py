"""`crossroads reproduce`, with real workers: the same bits again, or where they first differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.hashing import sha256_json
from tests.flows.conftest import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROMPT = "A static traffic CCTV camera captures an intersection. A red sedan turns left and stops."


def change(path: Path, **fields) -> None:
    """Rewrite a record so that it is consistent in itself, with other numbers."""
    record = json.loads(path.read_text())
    record["scenario"] |= fields
    record["identity"] |= fields
    record["job_id"] = sha256_json(record["identity"])
    path.write_text(json.dumps(record))


def test_the_same_bits_come_out_again_or_it_is_said_where_they_differ(workspace: Workspace) -> None:
    rows = [{"input": "frames/b.png", "prompt": PROMPT, "scenario_id": "a", "seed": 3, "negative_prompt": "blur",
             "adapters": [{"name": "collision", "strength": 0.7}]}]  # fmt: skip
    assert workspace.generate(str(workspace.write_manifest(rows))).returncode == 0
    record = workspace.folder / "out" / "records" / "a.json"
    before = {path: path.read_bytes() for path in (workspace.folder / "out").rglob("*") if path.is_file()}

    again = workspace.run("reproduce", "out/records/a.json", "--into", "again")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"a: bit-identical, sha256 {workspace.record('a')['output']['sha256']}" in again.stdout
    assert "not as it was" not in again.stdout
    assert (workspace.folder / "again" / "out" / "videos" / "a.mp4").exists()
    # Nothing of the first run was changed or used, and its lineage does not know of the second.
    assert {path: path.read_bytes() for path in before} == before
    assert (workspace.folder / "again" / "home" / "embeddings").is_dir()

    # A record that was forged to the last hash is not noticed before; its video is another one.
    change(record, seed=4)
    other = workspace.run("reproduce", "out/records/a.json", "--json")
    assert other.returncode == 3, other.stdout + other.stderr
    found = json.loads(other.stdout)
    assert found["identical"] is False
    assert found["expected_sha256"] != found["got_sha256"]
    difference = found["difference"]
    assert difference["num_different_frames"] > 0
    assert 5 < difference["psnr_db"] < 60
    assert difference["first_pixel"] is not None
    record.write_bytes(before[record])

    # What does not fit is refused before any worker starts.
    Image.fromarray(np.zeros((90, 160, 3), np.uint8)).save(workspace.folder / "frames" / "b.png")
    refused = workspace.run("reproduce", "out/records/a.json", "--into", "refused")
    assert refused.returncode == 1
    assert "is not the one of the record: got sha256" in refused.stderr
    assert not (workspace.folder / "refused" / "out").exists()
