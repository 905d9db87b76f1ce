"""Finished but unpublished clips: kept on this machine until they are published, so that a crash costs no GPU time.

A clip's folder is named by its job id. The description is written last, so its existence means that the frames are
complete.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["GeneratedClip", "finished_clip", "forget_clip", "keep_clip"]

_DESCRIPTION = "clip.json"


class GeneratedClip(BaseModel):
    """Frames that a worker generated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames_path: Path
    """uint8 [T, H, W, 3], .npy."""
    result: dict[str, Any]
    """What the worker said: sizes, seconds of each part (names ending in `_s`), what was truncated."""
    proof: dict[str, Any]
    environment: dict[str, str]
    lane: str
    num_devices: int = 1
    """Devices that rendered it together."""
    planned_device_s: float | None = None
    """Time of these devices as planned; None if that was unknown."""
    flow_run_id: str | None = None
    task_run_id: str | None = None

    @property
    def timings_s(self) -> dict[str, float]:
        """Seconds of each part that the worker did."""
        laps = {name: value for name, value in self.result.items() if name.endswith("_s") and name != "total_s"}
        return {name.removesuffix("_s"): value for name, value in laps.items()}

    @property
    def device_s(self) -> float:
        """Time of all devices that rendered it."""
        return self.num_devices * sum(self.timings_s.values())


def finished_clip(folder: Path) -> GeneratedClip | None:
    """The clip that an earlier run left in a folder, or None if it was not completed."""
    description = folder / _DESCRIPTION
    if not description.exists():
        return None
    clip = GeneratedClip.model_validate_json(description.read_text())
    return clip if clip.frames_path.exists() else None


def keep_clip(clip: GeneratedClip, folder: Path) -> None:
    """Declare the clip of a folder complete."""
    temporary = folder / f".{_DESCRIPTION}.tmp"
    temporary.write_text(clip.model_dump_json())
    temporary.replace(folder / _DESCRIPTION)


def forget_clip(folder: Path) -> None:
    """Remove a clip that has been published."""
    shutil.rmtree(folder, ignore_errors=True)
