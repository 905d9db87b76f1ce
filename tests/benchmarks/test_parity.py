"""The comparison itself: it passes on the copied vectors, and fails on every folder that it should fail on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from benchmarks.parity import main

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small set under other names: one network, one rotary table file, the sampler."""
    network = tmp_path / "dit/another_size"
    network.mkdir(parents=True)
    for name in ("config.json", "state_dict.safetensors"):
        shutil.copyfile(GOLDEN / "dit/a2_14b_style" / name, network / name)
    shutil.copyfile(GOLDEN / "dit/a2_14b_style/c2_b2_t3_6x8.safetensors", network / "another_case.safetensors")
    shutil.copytree(GOLDEN / "dit/rope", tmp_path / "dit/rope")
    shutil.copytree(GOLDEN / "sampler", tmp_path / "sampler")
    return tmp_path


@pytest.mark.slow
def test_the_whole_set_agrees(capsys):
    assert main([str(GOLDEN)]) == 0
    output = capsys.readouterr().out
    for group in ("dit bf16", "rope", "lora", "tokenizer decode", "preprocess", "layout", "end to end"):
        assert group in output


def test_other_names_are_found(folder, capsys):
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["ok"] * (len(lines) - 1)
    assert any(line.startswith("dit another_size") for line in lines)


def test_a_deviation_over_its_limit_fails(folder, capsys):
    path = folder / "dit/another_size/another_case.safetensors"
    tensors = load_file(path)
    tensors["out.net_output"] *= 1 + 1e-5
    save_file(tensors, path)
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert "another_size/another_case out.net_output: 1e-05 is over 2e-06" in output
    assert output.count("FAILED") == 1


def test_a_case_that_cannot_be_run_fails_with_its_reason(folder, capsys):
    path = folder / "dit/another_size/state_dict.safetensors"
    tensors = load_file(path)
    del tensors["blocks.1.mlp.layer2.weight"]
    save_file(tensors, path)
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert "could not be run" in output
    assert "blocks.1.mlp.layer2.weight" in output


def test_a_configuration_that_is_not_understood_fails(folder, capsys):
    path = folder / "dit/another_size/config.json"
    config = json.loads(path.read_text())
    config["constructor_kwargs"]["window_size"] = 3
    path.write_text(json.dumps(config))
    assert main([str(folder)]) == 1
    output = capsys.readouterr().out
    assert "window_size" in output
    assert "sampler trajectory" in output


def test_an_empty_folder_fails(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "no golden vectors" in capsys.readouterr().err
