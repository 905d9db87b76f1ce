"""Handing in a manifest: checked, uploaded under its hash, one run for one order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cosmos_core.errors import StorageUnavailable
from cosmos_core.hashing import sha256_file
from flows.cli import main
from tasks.inbox import keep_manifest
from tasks.storage import open_store

PROMPT = "A static traffic CCTV camera captures an intersection."

pytestmark = pytest.mark.e2e


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (64, 36)).save(tmp_path / "in" / "a.png")
    path = tmp_path / "in" / "night.json"
    path.write_text(json.dumps([{"input": "a.png", "prompt": f"{PROMPT} {tmp_path.name}", "scenario_id": "a"}]))
    return path


def crossroads(capsys, *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def submitted(capsys, *arguments: object) -> dict:
    code, out, err = crossroads(capsys, "submit", *arguments, "--json")
    assert code == 0, out + err
    return json.loads(out)


def test_the_same_order_is_one_run_and_another_order_is_another(capsys, tmp_path, manifest, deployed):
    inbox = tmp_path / "inbox"
    first = submitted(capsys, manifest, "--inbox", inbox)
    again = submitted(capsys, manifest, "--inbox", inbox)
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert first["run_id"] == again["run_id"]
    other = submitted(capsys, manifest, "--inbox", inbox, "--output", tmp_path / "elsewhere")
    assert other["is_new"]
    assert {str(run.id) for run in deployed()} == {first["run_id"], other["run_id"]}

    # What the run reads is the copy, whose name is its hash; its relative inputs begin where the manifest lay.
    [run] = [run for run in deployed() if str(run.id) == first["run_id"]]
    copy = Path(run.parameters["manifest"])
    assert copy == inbox / "manifests" / f"{sha256_file(manifest)}.json"
    assert copy.read_bytes() == manifest.read_bytes()
    assert run.parameters["input_root"] == str(manifest.parent)
    assert run.parameters["output"] == str(inbox / "results" / copy.stem[:16])
    assert "manifest:night.json" in run.tags


def test_the_run_is_not_started_again_when_the_server_has_forgotten_it(capsys, tmp_path, manifest, deployed):
    from prefect.client.orchestration import get_client

    first = submitted(capsys, manifest, "--inbox", tmp_path / "inbox")
    [run] = deployed()
    with get_client(sync_client=True) as client:
        client.delete_flow_run(run.id)
    again = submitted(capsys, manifest, "--inbox", tmp_path / "inbox")
    assert (again["run_id"], again["is_new"]) == (first["run_id"], False)
    assert deployed() == []


def test_what_is_wrong_is_refused_before_anything_is_started(capsys, tmp_path, manifest, deployed):
    inbox = tmp_path / "inbox"
    rows = [*json.loads(manifest.read_text()), {"input": "none.png", "prompt": PROMPT}]
    half = manifest.with_name("half.json")
    half.write_text(json.dumps(rows))
    code, out, _ = crossroads(capsys, "submit", half, "--inbox", inbox)
    assert (code, "1 valid, 1 invalid" in " ".join(out.split())) == (3, True)
    assert not inbox.exists()
    assert deployed() == []
    assert submitted(capsys, half, "--inbox", inbox, "--allow-invalid")["is_new"]

    code, _, err = crossroads(capsys, "submit", manifest, "--inbox", inbox, "--param", "limt=1")
    assert (code, "does not take such a parameter: got limt" in err) == (1, True)
    code, _, err = crossroads(capsys, "submit", manifest, "--inbox", inbox, "--deployment", "generate-scenarios/none")
    assert (code, "prefect deploy --all" in err) == (1, True)
    code, out, _ = crossroads(capsys, "submit", half, "--inbox", inbox, "--allow-invalid")
    [run] = deployed()
    assert code == 0
    assert f"{run.id} (started before for the same order)" in out
    assert f"crossroads retry {run.id}" in out


def test_without_a_server_the_command_says_what_to_start(capsys, tmp_path, manifest):
    code, _, err = crossroads(capsys, "submit", manifest, "--inbox", tmp_path / "inbox")
    assert (code, "PREFECT_API_URL" in err) == (1, True)


def test_a_server_that_is_down_is_one_line(capsys, tmp_path, manifest):
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
        code, _, err = crossroads(capsys, "submit", manifest, "--inbox", tmp_path / "inbox")
    assert (code, len(err.splitlines()), "http://127.0.0.1:9/api did not answer" in err) == (1, 1, True)


def test_a_bucket_gets_the_copy_but_no_local_inputs_unless_told(capsys, tmp_path, manifest, deployed, bucket):
    inbox = f"{bucket}/inbox"
    code, _, err = crossroads(capsys, "submit", manifest, "--inbox", inbox)
    assert (code, "--input-root" in err) == (1, True)
    told = submitted(capsys, manifest, "--inbox", inbox, "--input-root", manifest.parent)
    assert told["parameters"]["manifest"] == f"{inbox}/manifests/{sha256_file(manifest)}.json"
    assert open_store(inbox).read_bytes(f"manifests/{sha256_file(manifest)}.json") == manifest.read_bytes()
    assert told["parameters"]["output"].startswith(f"{inbox}/results/")


def test_a_damaged_copy_is_never_run(tmp_path, manifest):
    inbox = open_store(str(tmp_path / "inbox"))
    sha256 = sha256_file(manifest)
    copy = Path(keep_manifest(inbox, manifest.name, manifest.read_bytes(), sha256=sha256))
    copy.write_bytes(b"[]")
    with pytest.raises(StorageUnavailable, match="another content"):
        keep_manifest(inbox, manifest.name, manifest.read_bytes(), sha256=sha256)
