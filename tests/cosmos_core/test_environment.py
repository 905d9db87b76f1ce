"""What a worker says of the machine that it runs on."""

from __future__ import annotations

import platform

import pytest
import torch

from cosmos_core.environment import describe_environment, driver_version


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A stand-in for the driver's tool, first on the path."""

    def write(script: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


def test_every_entry_is_a_text_that_says_something():
    environment = describe_environment()
    assert environment["python"] == platform.python_version()
    assert environment["torch"] == torch.__version__
    assert all(isinstance(value, str) and value for value in environment.values())
    assert ("gpu" in environment) == torch.cuda.is_available()


def test_the_driver_is_asked_of_its_own_tool(nvidia_smi):
    nvidia_smi("echo 570.86.15; echo 570.86.15")
    assert driver_version() == "570.86.15"


@pytest.mark.parametrize("script", ["exit 9", "true"])
def test_a_tool_that_does_not_say_it_is_no_error(nvidia_smi, script):
    nvidia_smi(script)
    assert driver_version() is None


def test_without_the_tool_there_is_no_driver_version(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver_version() is None
