"""`crossroads adapter`, as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CROSSROADS = Path(sys.executable).parent / "crossroads"


@pytest.fixture
def model(micro_root) -> Path:
    return micro_root / "crossroads/micro"


@pytest.fixture
def crossroads(tmp_path):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(CROSSROADS), "adapter", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_from_a_training_checkpoint_to_other_programs_and_back(crossroads, model, tmp_path):
    training = model / "adapters/collision/iter_000000001.pt"
    done = crossroads(
        "extract", training, "rain.safetensors", "--alpha", 16, "--base", model / "model-112p-10fps.safetensors"
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "rain.safetensors: extracted adapter",
        "rank            16, alpha 16",
        "204,800 parameters on 40 layers, bfloat16",
        "(of the file)",
        "iteration       1",
    ):
        assert line in done.stdout
    assert (tmp_path / "rain.safetensors").stat().st_size < training.stat().st_size / 5

    report = json.loads(crossroads("inspect", "rain.safetensors", "--json").stdout)
    assert (report["kind"], report["rank"], report["manifest"]["fps"]) == ("extracted adapter", 16, 10)
    assert report["norm_max"] >= report["norm_mean"] > 0

    for layout, out in (("peft", "folder"), ("diffusers", "d.safetensors")):
        exported = crossroads("export", "rain.safetensors", out, "--format", layout)
        assert (exported.returncode, exported.stderr) == (0, "")
        assert crossroads("import", out, f"{layout}-back.safetensors").returncode == 0
        assert (tmp_path / f"{layout}-back.safetensors").read_bytes() == (tmp_path / "rain.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", "iter_1.pt", "x.safetensors", "--alpha", 16), "no such checkpoint: got iter_1.pt"),
        (("extract", "{training}", "x.safetensors", "--alpha", 16, "--rank", 8), "size mismatch for blocks.0."),
        (
            ("extract", "{training}", "x.safetensors", "--alpha", 16, "--target-modules", "to_q"),
            "No module named 'to_q'",
        ),
        (("extract", "{base}", "x.safetensors", "--alpha", 16), "Missing keys in regular model: ['blocks.0."),
        (("extract", "{training}", "x.safetensors", "--alpha", -1), "a LoRA adapter needs its rank and alpha"),
        (("export", "{training}", "x", "--format", "peft"), "does not say the alpha of its adapter"),
        (("import", "{training}", "x.safetensors", "--alpha", 16), "Extract it instead"),
        (("inspect", "{base}"), "no LoRA tensors in the file"),
    ],
)
def test_an_error_is_one_line(crossroads, model, tmp_path, arguments, message):
    paths = {"training": model / "adapters/collision/iter_000000001.pt", "base": model / "model-112p-10fps.safetensors"}
    failed = crossroads(*(str(argument).format(**paths) for argument in arguments))
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("crossroads: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_alpha_has_to_be_said(crossroads, model):
    failed = crossroads("extract", model / "adapters/collision/iter_000000001.pt", "x.safetensors")
    assert failed.returncode == 2
    assert "--alpha" in failed.stderr
