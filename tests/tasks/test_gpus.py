"""GPUs as the driver describes them, and as a person imagines them."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from cosmos_core.errors import BadConfig
from tasks import devices
from tasks.config import WorkerConfig
from tasks.gpus import Gpu, imagined_gpus, machine_gpus

CARDS = {"GPU-a": ("NVIDIA H200", 150_754_820_096), "GPU-b": ("NVIDIA H100 80GB HBM3", 85_520_809_984)}


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_gpu_uuids", lambda: {"0": "GPU-a", "1": "GPU-b"})

    def handle(key):
        if key not in CARDS:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return key

    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetName": lambda key: CARDS[key][0],
        "nvmlDeviceGetMemoryInfo": lambda key: SimpleNamespace(total=CARDS[key][1]),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, answer)


def test_the_driver_says_name_and_memory(two_cards):
    first, second = machine_gpus(WorkerConfig())
    assert (first.name, first.memory_bytes, first.kind) == ("NVIDIA H200", 150_754_820_096, "H200")
    assert second.kind == "H100"
    assert machine_gpus(WorkerConfig(gpus=("1",))) == (second,)
    assert machine_gpus(WorkerConfig(device="cpu")) == ()


def test_what_the_driver_does_not_know_stays_unknown(two_cards, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-77")
    assert machine_gpus(WorkerConfig()) == (Gpu(name="MIG-77", memory_bytes=None),)

    def no_library():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_library)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert machine_gpus(WorkerConfig()) == (Gpu(name="GPU-a", memory_bytes=None),)


def test_a_machine_without_a_gpu_has_none(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_gpu_uuids", dict)
    assert machine_gpus(WorkerConfig()) == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8xH200", [("H200", 141)] * 8),
        ("l40s", [("L40S", 48)]),
        ("2 x 48GB", [("48 GB", 48)] * 2),
        ("1xH100, 2xrtx-4090", [("H100", 80), ("RTX 4090", 24), ("RTX 4090", 24)]),
        ("cpu", []),
    ],
)
def test_imagined_gpus(text, expected):
    assert [(gpu.name, gpu.memory_bytes / 1e9) for gpu in imagined_gpus(text)] == expected


@pytest.mark.parametrize("text", ["", "0xH200", "8xH300", "H200x8", "8xH200,", "-1xH200", "9999xH200"])
def test_what_is_no_gpu_is_refused_with_what_is(text):
    with pytest.raises(BadConfig, match="8xH200 or 2x48GB"):
        imagined_gpus(text)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe"),
        ("NVIDIA H200 MIG 1g.18gb", "NVIDIA H200 MIG 1g.18gb"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_a_slower_relative_is_not_taken_for_the_card_it_is_called_after(name, kind):
    assert Gpu(name=name, memory_bytes=None).kind == kind
