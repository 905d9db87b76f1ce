"""`crossroads plan`: its tables fit a terminal, its exit codes mean something, and it says what it does not know."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from flows.cli.plan_tables import print_plan
from tasks.config import parse_config
from tasks.gpus import imagined_gpus
from tasks.manifest import read_manifest
from tasks.run_plan import plan_run
from tests.flows.test_cli import run

ROW = {"input": "a.png", "prompt": "A camera.", "model": "2B", "resolution": "720", "fps": 16}


@pytest.fixture
def write(tmp_path: Path):
    def write(rows: list[dict[str, Any]], **config: Any) -> tuple[str, str]:
        (tmp_path / "a.png").touch()
        manifest, settings = tmp_path / "manifest.json", tmp_path / "run.yaml"
        manifest.write_text(json.dumps([ROW | {"scenario_id": f"s{n}"} | row for n, row in enumerate(rows)]))
        settings.write_text(yaml.safe_dump(config))
        return str(manifest), str(settings)

    return write


def test_a_plan_for_other_gpus_than_these(capsys, write):
    manifest, config = write([{}] * 10 + [{"model": "14B", "resolution": "480"}])
    code, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "8xH200")
    assert code == 0
    for words in ("11 rows; on 8 x H200 (131.3 GiB)", "computed", "fitted", "assumed", "~79.5"):
        assert words in out
    assert "base weights" not in out  # they are kept for adapters, and there is none
    assert "2B 720p 16fps: 2 on 4 GPUs each, the last scenarios." in out
    assert "h200-full-run.json" in out


def test_exit_codes(capsys, write):
    manifest, config = write([{}, {"model": "14B"}])
    assert run(capsys, "plan", manifest, "--config", config, "--gpus", "1xH200")[0] == 0
    code, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "1x24GB")
    assert code == 3
    assert re.search(r"14B 720p 16fps does not fit: needs 41\.\d GiB", out)
    manifest, config = write([{"model": "14B"}])
    assert run(capsys, "plan", manifest, "--config", config, "--gpus", "1x24GB")[0] == 1
    manifest, config = write([{}, {"fps": 12}])
    assert run(capsys, "plan", manifest, "--config", config, "--gpus", "cpu")[0] == 3
    manifest, config = write([{"fps": 12}])
    code, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "cpu")
    assert (code, "1 rows, 1 invalid" in out) == (1, True)


def test_mistakes_are_one_line(capsys, write):
    manifest, config = write([{}], worker={"parallelism": "context:17"})
    code, _, err = run(capsys, "plan", manifest, "--config", config, "--gpus", "20xH200")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "got 17, expected 1 | 2 | 3" in err
    code, _, err = run(capsys, "plan", manifest, "--gpus", "8xVoodoo")
    assert (code, "known: L4, RTX 4090" in err) == (1, True)


def test_the_memory_mode_and_what_is_not_counted_are_explained(capsys, write, tmp_path):
    guards = {"text": {"text.guard_model": {"kind": "transformers", "folder": str(tmp_path / "none"),
                                            "form": "llama_guard", "device": "cuda"}}}  # fmt: skip
    manifest, config = write([{"adapters": ["its"]}], guards=guards, adapters={"its": {"path": "its.pt"}})
    _, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "1x16GB")
    assert "Memory mode strips: the VAE decodes in strips of rows." in out
    assert "Memory mode text: the text encoder runs on the CPU." in out
    assert "The text.guard_model is not counted: its files are not there." in out


def test_models_beside_the_worker_have_their_place_in_the_table(capsys, write, tmp_path):
    refiner = tmp_path / "refiner"
    refiner.mkdir()
    with (refiner / "model.safetensors").open("wb") as file:
        file.truncate(16 << 30)  # sparse
    manifest, config = write([{}], refiner={"kind": "transformers", "path": str(refiner), "device": "cuda"})
    _, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "1xH200")
    [line] = [line for line in out.splitlines() if "prompt refiner" in line]
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["prompt refiner", "18.0", "", "", "", "", "file"]
    _, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "1x16GB")
    assert "Memory mode refiner: the prompt refiner runs on the CPU." in out


def test_the_document_holds_the_whole_plan(capsys, write):
    manifest, config = write([{"adapters": ["its"]}] * 3 + [{"model": "14B"}], adapters={"its": {"path": "its.pt"}})
    code, out, _ = run(capsys, "plan", manifest, "--config", config, "--gpus", "2xL40S", "--json")
    assert code == 0
    document = json.loads(out)
    assert [gpu["kind"] for gpu in document["gpus"]] == ["L40S", "L40S"]
    small, large = document["variants"]
    assert small["stages"][0]["num_scenarios"] + small["stages"][-1]["num_scenarios"] in (3, 6)
    assert small["stages"][0]["durations"][0]["basis"] == "scaled"
    assert {part["basis"] for part in small["memory"]["decode"]} == {"computed", "fitted", "assumed"}
    assert sum(part["num_bytes"] for part in large["memory"]["denoise"]) <= 48e9
    assert large["fits"] == {"24 GB": "no", "32 GB": "no", "48 GB": "yes", "80 GB": "yes", "141 GB": "yes"}
    assert large["device_hours"] == pytest.approx(large["wall_s"] * 2 / 3600)


def test_the_demo_on_this_machine_without_a_gpu(capsys, repository, monkeypatch):
    monkeypatch.setattr("tasks.devices._gpu_uuids", dict)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    manifest = repository / "examples" / "demo" / "manifest.parquet"
    code, out, _ = run(capsys, "plan", str(manifest))
    assert code == 3
    assert "on the CPU" in out
    assert "cpu-tiny.json" in out
    assert "Memory of a GPU" not in out


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("gpus", ["8xH200", "4xL4,1xL40S", "1x16GB", "cpu"])
@pytest.mark.parametrize("quantize", ["none", "fp8"])
def test_tables_fit_the_terminal(write, width, gpus, quantize):
    """No cell is cut off: what is shown at 80 columns is what is shown at 120."""
    manifest, _ = write([{"adapters": ["its"]}, {"num_steps": 10}] * 20 + [{"model": "14B", "aspect_ratio": "1:1"}])
    config = parse_config({"worker": {"quantize": quantize}}, origin="test")
    made = plan_run(read_manifest(manifest, config.defaults), config, imagined_gpus(gpus))
    console = Console(width=width, file=io.StringIO(), highlight=False)
    print_plan(made, console)
    text = console.file.getvalue()
    first, *lines = text.splitlines()
    assert first.startswith(manifest)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    assert "14B 720p 16fps" in text
