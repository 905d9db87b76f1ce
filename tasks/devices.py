"""The devices of this machine that can generate: its GPUs, or one CPU slot where there is none.

A GPU is known by its UUID, which is the same in every container and whatever `CUDA_VISIBLE_DEVICES` says, so that a
lease and a worker mean the same card.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from cosmos_core.errors import BadConfig
from tasks.config import WorkerConfig

__all__ = ["Device", "machine_devices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device."""

    name: str
    """Short, for people: `gpu0`, `cpu`."""
    key: str
    """The same for everybody on this machine: the UUID of a GPU, `cpu` for the CPU slot."""
    visible: str | None
    """Its value of `CUDA_VISIBLE_DEVICES`; None for a CPU."""


def machine_devices(config: WorkerConfig) -> tuple[Device, ...]:
    """The devices that a run may use.

    Raises:
        BadConfig: GPUs are asked for, and there is none.
    """
    if config.device == "cpu":
        return _cpu_slots(config.cpu_workers)
    uuids = _gpu_uuids()
    names = config.gpus or _visible_names(uuids)
    if names:
        return tuple({device.key: device for device in (_gpu(name, uuids) for name in names)}.values())
    if config.device == "cuda":
        raise BadConfig(
            "worker.device is cuda, and no GPU is visible",
            got=f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}",
            fix="Look at nvidia-smi, or set worker.device to auto",
        )
    return _cpu_slots(config.cpu_workers)


def _cpu_slots(number: int) -> tuple[Device, ...]:
    keys = ["cpu", *(f"cpu-{index}" for index in range(1, number))]
    return tuple(Device(name=key, key=key, visible=None) for key in keys)


def _visible_names(uuids: dict[str, str]) -> Sequence[str]:
    """GPUs as `CUDA_VISIBLE_DEVICES` names them, by default all."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is None:
        return tuple(uuids)
    names: list[str] = []
    for name in (part.strip() for part in visible.split(",")):
        if name in ("", "-1"):
            break  # CUDA ignores what follows the first one that is no device
        names.append(name)
    return names


def _gpu(name: str, uuids: dict[str, str]) -> Device:
    # A driver that does not say UUIDs leaves the name; MIG slices are named by a UUID of their own.
    key = uuids.get(name) or next((uuid for uuid in uuids.values() if name and uuid.startswith(name)), name)
    index = next((index for index, uuid in uuids.items() if uuid == key), None)
    return Device(name=f"gpu{index}" if index is not None else name, key=key, visible=key)


def _gpu_uuids() -> dict[str, str]:
    """UUIDs of all GPUs by their index, without importing torch."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return {}
    if answer.returncode != 0:
        return {}
    pairs = (line.split(",", 1) for line in answer.stdout.splitlines() if "," in line)
    return {index.strip(): uuid.strip() for index, uuid in pairs}
