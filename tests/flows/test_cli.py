"""The command line: one clear line for each mistake, and exit codes that mean something."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from flows.cli import main


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps([{"input": "a.png", "prompt": "A camera."}]))
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generat"], 2, ["No such command", "generate"]),
        (["generate"], 2, ["Missing argument", "crossroads generate --help"]),
        (["generate", "m.json", "--outptu", "x"], 2, ["--outptu", "--output"]),
        (["generate", "none.json", "--output", "x"], 1, ["none.json"]),
        (["checkpoint", "plan", "--fps", "12"], 1, ["12", "10 | 16"]),
        (["checkpoint", "inspect", "none.pt"], 1, ["none.pt"]),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_go_on(capsys, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    ended, _, err = run(capsys, *arguments)
    assert ended == code
    assert len(err.splitlines()) == 1
    assert err.startswith("crossroads: ")
    for word in words:
        assert word in err


def test_wrong_files_are_refused_before_anything_is_started(capsys, tmp_path, manifest):
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    assert run(capsys, "generate", str(empty), "--output", str(tmp_path / "out"))[0] == 1
    code, _, err = run(capsys, "generate", manifest, "--output", str(tmp_path / "out"), "--config", "none.yaml")
    assert (code, "no such configuration" in err) == (1, True)
    (tmp_path / "a.png").touch()
    (tmp_path / "groups.yaml").write_text("worker: {device: cpu, parallelism: 'context:6'}")
    arguments = ["generate", manifest, "--output", str(tmp_path / "out"), "--config", str(tmp_path / "groups.yaml")]
    code, _, err = run(capsys, *arguments)
    assert (code, "got 6, expected 1 | 2 | 3 | 4 | 5" in err) == (1, True)
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "generate", manifest, "--output", str(tmp_path / "file" / "out"))
    assert (code, "cannot be made" in err) == (1, True)


def test_the_plan_names_the_public_files(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "checkpoint", "plan", "--model", "14B", "--resolution", "480", "--fps", "10")
    assert code == 0
    assert "checkpoints/nvidia/Cosmos-Predict2-14B-Video2World/model-480p-10fps.pt" in out
    assert "checkpoints/google-t5/t5-11b" in out
    assert "28.5 GB" in out


@pytest.mark.parametrize("module", ["flows.cli", "flows.generate_scenarios", "tasks.stages", "tasks.worker_client"])
def test_flows_and_tasks_are_imported_without_torch(module):
    script = f"import sys, {module}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'diffusers')))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
