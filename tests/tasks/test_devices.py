"""Which devices a run may use, and that one card has one name however it is asked for."""

from __future__ import annotations

import subprocess

import pytest

from cosmos_core.errors import BadConfig
from tasks import devices
from tasks.config import WorkerConfig
from tasks.devices import machine_devices

UUIDS = {"0": "GPU-aaaa-1", "1": "GPU-bbbb-2"}


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_gpu_uuids", lambda: UUIDS)


def keys(**config) -> list[str]:
    return [device.key for device in machine_devices(WorkerConfig(**config))]


def test_without_a_gpu_there_is_one_cpu_slot(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_gpu_uuids", dict)
    [slot] = machine_devices(WorkerConfig())
    assert (slot.name, slot.key, slot.visible) == ("cpu", "cpu", None)
    assert keys(cpu_workers=3) == ["cpu", "cpu-1", "cpu-2"]
    with pytest.raises(BadConfig, match="no GPU is visible"):
        machine_devices(WorkerConfig(device="cuda"))


def test_gpus_are_known_by_their_uuid(two_gpus):
    assert [(d.name, d.key, d.visible) for d in machine_devices(WorkerConfig())] == [
        ("gpu0", "GPU-aaaa-1", "GPU-aaaa-1"),
        ("gpu1", "GPU-bbbb-2", "GPU-bbbb-2"),
    ]
    assert keys(device="cpu") == ["cpu"]
    # An index, a UUID and the beginning of one are the same card, and one card is one device.
    assert keys(gpus=("1",)) == keys(gpus=("GPU-bbbb-2",)) == keys(gpus=("GPU-bbbb", "1")) == ["GPU-bbbb-2"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", ["GPU-bbbb-2"]),
        ("1,0", ["GPU-bbbb-2", "GPU-aaaa-1"]),
        ("MIG-77", ["MIG-77"]),
        ("0,-1,1", ["GPU-aaaa-1"]),
        ("", ["cpu"]),
    ],
)
def test_visible_gpus_follow_the_environment(two_gpus, monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert keys() == expected


def test_uuids_come_from_the_driver_and_none_without_one(monkeypatch):
    answer = subprocess.CompletedProcess([], 0, stdout="0, GPU-aaaa-1\n1, GPU-bbbb-2\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: answer)
    assert devices._gpu_uuids() == UUIDS
    answer.returncode = 9
    assert devices._gpu_uuids() == {}

    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(devices.subprocess, "run", missing)
    assert devices._gpu_uuids() == {}
