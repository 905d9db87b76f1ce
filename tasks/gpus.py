"""The GPUs of a plan: those of this machine, or others for the sake of argument.

Names and memory come from the driver through NVML, without torch. What the driver does not tell stays unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pynvml

from cosmos_core.errors import BadConfig
from tasks.config import WorkerConfig
from tasks.devices import machine_devices

__all__ = ["CARD_GB", "Gpu", "imagined_gpus", "machine_gpus"]

CARD_GB = {
    "L4": 24,
    "RTX 4090": 24,
    "RTX 5090": 32,
    "A100": 80,
    "L40S": 48,
    "RTX 6000 Ada": 48,
    "RTX PRO 6000": 96,
    "H100": 80,
    "H200": 141,
    "B200": 180,
}
"""Memory of kinds of GPU as their maker names it, in GB of 10^9 bytes; what the driver reports is a little more."""

_GB = 10**9
_OTHER_SPEED = re.compile(r"\b(PCIe|NVL|MIG|Max-Q|Laptop)\b")
"""Words in the name of a GPU that is slower than the one it is called after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    name: str
    """Of the product, as the driver says it."""
    memory_bytes: int | None
    """None where nothing says it."""

    @property
    def kind(self) -> str:
        """Name by which its speed is known: `H200` of `NVIDIA H200`; the whole name where it is not known."""
        if _OTHER_SPEED.search(self.name):
            return self.name
        words = self.name.replace("-", " ").split()
        known = [kind for kind in CARD_GB if _contains(words, kind.split())]
        return max(known, key=len, default=self.name)


def machine_gpus(config: WorkerConfig) -> tuple[Gpu, ...]:
    """The GPUs that a run on this machine uses; empty where it runs on the CPU.

    Raises:
        BadConfig: GPUs are asked for, and there is none.
    """
    keys = [device.visible for device in machine_devices(config) if device.visible is not None]
    if not keys:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return tuple(Gpu(name=key, memory_bytes=None) for key in keys)
    try:
        return tuple(_described(key) for key in keys)
    finally:
        pynvml.nvmlShutdown()


def imagined_gpus(text: str) -> tuple[Gpu, ...]:
    """GPUs as a person writes them: `8xH200`, `2x48GB`, `L40S`, `4xH100,2xL4`; `cpu` is none.

    Raises:
        BadConfig: a part of it is no known GPU.
    """
    if text.strip().lower() == "cpu":
        return ()
    return tuple(gpu for part in text.split(",") for gpu in _imagined(part.strip()))


def _imagined(part: str) -> list[Gpu]:
    match = re.fullmatch(r"(?:(\d{1,3})\s*[x*]\s*)?(.+)", part, flags=re.IGNORECASE)
    number, name = (int(match[1] or 1), match[2].strip()) if match else (0, "")
    kinds = {_plain(kind): kind for kind in CARD_GB}
    if number and (size := re.fullmatch(r"(\d{1,4})\s*GB", name, flags=re.IGNORECASE)):
        return [Gpu(name=f"{size[1]} GB", memory_bytes=int(size[1]) * _GB)] * number
    if number and (kind := kinds.get(_plain(name))):
        return [Gpu(name=kind, memory_bytes=CARD_GB[kind] * _GB)] * number
    raise BadConfig("no such GPUs", got=part, expected=f"such as 8xH200 or 2x48GB; known: {', '.join(CARD_GB)}; or cpu")


def _described(key: str) -> Gpu:
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(key)
        return Gpu(name=pynvml.nvmlDeviceGetName(handle), memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError:
        return Gpu(name=key, memory_bytes=None)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _contains(words: list[str], wanted: list[str]) -> bool:
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words)))
