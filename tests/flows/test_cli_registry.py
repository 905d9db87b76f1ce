"""`crossroads registry`, as a person types it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cosmos_core.errors import AdapterMismatch, BadConfig, BadRequest, CheckpointMissing
from cosmos_core.hashing import sha256_bytes
from flows.cli import app as crossroads
from flows.cli.registry import app
from tests.flows.conftest import Workspace

PROMPT = "A static traffic camera. A red car brakes hard and a truck behind it cannot stop in time."
SCALE = ("--kind", "adapter", "--rank", 16, "--alpha", 16)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CROSSROADS_REGISTRY", raising=False)
    for name, content in (("iter_000001000.pt", b"one"), ("iter_000002000.pt", b"two"), ("base.pt", b"base")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def invoke(*arguments, of=app):
    result = CliRunner().invoke(of, list(map(str, arguments)), catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_a_story_of_two_versions(folder):
    said = invoke(
        "add", "its-collision", "iter_000001000.pt", *SCALE, "--alias", "production", "--note", "first"
    ).stdout
    assert f"its-collision:v1 registered: sha256 {sha256_bytes(b'one')}" in said
    assert "its-collision@production is its-collision:v1" in said
    assert "its-collision:v2 registered" in invoke("add", "its-collision", "iter_000002000.pt", *SCALE).stdout
    assert "v1 was registered before" in invoke("add", "its-collision", "iter_000001000.pt", *SCALE).stdout
    assert (folder / "registry" / "versions" / "its-collision" / "v2.json").is_file()
    assert "is its-collision:v2" in invoke("alias", "its-collision@production", "its-collision:v2").stdout

    lines = invoke("list").stdout.splitlines()
    assert not any("production" in line for line in lines if "its-collision:v1" in line)
    assert any("production" in line and "2000" in line for line in lines if "its-collision:v2" in line)

    shown = invoke("show", "its-collision").stdout
    assert "its-collision@production: nothing -> v1" in shown
    assert "its-collision@production: v1 -> v2" in shown
    assert "first" in shown
    only = invoke("show", "its-collision@production").stdout
    assert sha256_bytes(b"two") in only
    assert sha256_bytes(b"one") not in only


def test_json_for_programs(folder):
    invoke("add", "base", "base.pt", "--kind", "checkpoint", "--resolution", "720p", "--fps", 16, "--alias", "stable")
    invoke("add", "its", "iter_000001000.pt", *SCALE, "--base", "base@stable", "--target-modules", "q_proj, k_proj")
    (version,) = json.loads(invoke("list", "--kind", "adapter", "--json").stdout)
    assert (version["id"], version["iteration"], version["rank"]) == ("its:v1", 1000, 16)
    assert version["parent_sha256"] == sha256_bytes(b"base")
    assert version["target_modules"] == ["q_proj", "k_proj"]
    assert version["location"] == str(folder / "iter_000001000.pt")
    document = json.loads(invoke("show", "base", "--json").stdout)
    assert document["versions"][0]["aliases"] == ["stable"]
    assert (document["versions"][0]["resolution"], document["versions"][0]["fps"]) == ("720", 16)
    assert [(move["from_version"], move["to_version"]) for move in document["alias_history"]] == [(None, 1)]


def test_the_place_is_the_option_the_environment_or_the_configuration(folder, monkeypatch):
    (folder / "run.yaml").write_text("registry: configured\n")
    invoke("add", "a", "base.pt", "--kind", "vae", "--config", "run.yaml")
    assert (folder / "configured").is_dir()
    monkeypatch.setenv("CROSSROADS_REGISTRY", str(folder / "environment"))
    invoke("add", "b", "base.pt", "--kind", "vae", "--config", "run.yaml")
    assert (folder / "environment").is_dir()
    listed = invoke("list", "--registry", "configured", "--json").stdout
    assert [version["id"] for version in json.loads(listed)] == ["a:v1"]


def test_a_registry_in_a_bucket(folder, bucket):
    place = ("--registry", f"{bucket}/registry")
    invoke("add", "its", "iter_000001000.pt", *SCALE, "--alias", "production", *place)
    assert "its:v1" in invoke("show", "its@production", *place).stdout
    assert not (folder / "registry").exists()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("add", "its", "base.pt", "--kind", "adapter", "--rank", "16"), BadRequest, "Give --alpha"),
        (("add", "its", "none.pt", *SCALE), CheckpointMissing, "no such file"),
        (("add", "Its", "base.pt", *SCALE), BadRequest, "not a name"),
        (("add", "its", "base.pt", *SCALE, "--alias", "v2"), BadRequest, "cannot be taken for a version"),
        (("add", "its", "base.pt", *SCALE, "--base", "none"), CheckpointMissing, "no such name"),
        (("add", "its", "base.safetensors", *SCALE), AdapterMismatch, "safetensors"),
        (("list",), BadConfig, "no registry is named"),
        (("show", "its", "--registry", "none"), BadConfig, "there is no registry"),
        (("alias", "its", "its:v1"), BadRequest, "NAME@ALIAS"),
    ],
)
def test_what_is_refused(folder, arguments, error, message):
    (folder / "base.safetensors").write_bytes(b"not one")
    with pytest.raises(error, match=message):
        invoke(*arguments)


def test_a_base_must_be_a_checkpoint_and_an_alias_must_lead_somewhere(folder):
    invoke("add", "its", "iter_000001000.pt", *SCALE)
    with pytest.raises(BadRequest, match="base of an adapter is a checkpoint: got its:v1"):
        invoke("add", "other", "iter_000002000.pt", *SCALE, "--base", "its")
    with pytest.raises(CheckpointMissing, match="no such version"):
        invoke("alias", "its@production", "its:v9")
    with pytest.raises(CheckpointMissing, match="no such name"):
        invoke("show", "none")


def test_it_is_part_of_the_command():
    assert "registry" in invoke("--help", of=crossroads).stdout


@pytest.mark.e2e
def test_a_run_takes_its_adapter_from_the_registry_and_records_the_version(workspace: Workspace, micro_root) -> None:
    adapter = micro_root / "crossroads" / "micro" / "adapters" / "collision" / "iter_000000001.pt"
    base = micro_root / "crossroads" / "micro" / "model-112p-10fps.safetensors"
    for command in (
        ("add", "micro-base", str(base), "--kind", "checkpoint", "--alias", "stable"),
        ("add", "its-collision", str(adapter), *SCALE, "--base", "micro-base@stable", "--alias", "production"),
    ):
        done = workspace.run("registry", *map(str, command))
        assert done.returncode == 0, done.stderr
    scenario = {"input": "frames/a.png", "prompt": PROMPT, "num_steps": 1}
    used_and_unknown = {"one": "its-collision@production:0.5", "none": "its-collision@staging"}
    workspace.write_manifest(
        [scenario | {"scenario_id": name, "adapters": adapters} for name, adapters in used_and_unknown.items()]
    )
    done = workspace.generate()
    assert done.returncode == 3, done.stdout + done.stderr
    assert [row["status"] for row in workspace.results()] == ["published", "invalid"]
    (used,) = workspace.record("one")["adapters"]
    assert (used["reference"], used["version"], used["iteration"]) == (
        "its-collision@production",
        "its-collision:v1",
        1,
    )
    assert used["parent_sha256"] == workspace.record("one")["model"]["base"]["sha256"]
    (pin,) = (workspace.folder / "out" / "versions").glob("*/its-collision@production.json")
    assert json.loads(pin.read_text())["version"] == "its-collision:v1"
