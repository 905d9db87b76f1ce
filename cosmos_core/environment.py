"""What a worker runs on: interpreter, libraries, driver and GPU, as short texts for the record of each video."""

from __future__ import annotations

import platform
import socket
import subprocess

import numpy as np
import torch

__all__ = ["describe_environment", "driver_version"]


def describe_environment() -> dict[str, str]:
    """Versions and names that can change pixels or explain a time; GPU entries only where there is one."""
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        "host": socket.gethostname(),
    }
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        environment |= {
            "gpu": torch.cuda.get_device_name(),
            "gpu_capability": f"{major}.{minor}",
            "cuda": str(torch.version.cuda),
            "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
            "driver": driver_version() or "unknown",
        }
        if torch.distributed.is_nccl_available():
            environment["nccl"] = ".".join(str(part) for part in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return environment


def driver_version() -> str | None:
    """Version of the NVIDIA driver, or None where `nvidia-smi` does not say it."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = answer.stdout.split()
    return lines[0] if lines else None
