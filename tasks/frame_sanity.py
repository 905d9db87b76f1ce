"""Whether decoded frames are a picture at all, and the plain statement that nobody looked at what they show.

Legend: T frames, H W height and width in pixels; frames are uint8 RGB [T, H, W, 3].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from cosmos_core.errors import BadInput
from tasks.verdicts import Stage, Verdict, run_check, unavailable

__all__ = ["Frames", "SanityOptions", "check_frames", "content_unavailable", "require_frames"]

Frames = npt.NDArray[np.uint8]


class SanityOptions(BaseModel):
    """Limits of the decode sanity check, in 8-bit levels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    black_level: int = Field(default=16, ge=0, le=255)
    """A frame is black when no pixel of it is brighter: the studio black of 8-bit video."""
    uniform_std: float = Field(default=2.0, ge=0)
    """A frame is near-uniform when its levels vary less than this."""
    max_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of black, or of near-uniform, frames above which the clip is flagged."""
    frozen_difference: float = Field(default=0.05, ge=0)
    """A clip is frozen when no frame differs from the first by more than this on average."""


def require_frames(frames: object) -> None:
    """Raise `BadInput` unless frames are uint8 [T, H, W, 3] with at least one frame."""
    if isinstance(frames, np.ndarray):
        if frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size > 0:
            return
        got = f"{frames.dtype} {list(frames.shape)}"
    else:
        got = type(frames).__name__
    raise BadInput("frames are malformed", got=got, expected="a uint8 array [T, H, W, 3] with at least one frame")


def check_frames(frames: Frames, options: SanityOptions | None = None, *, stage: Stage = "video") -> Verdict:
    """Whether decoded frames are a picture at all: `black`, `uniform` and `frozen` are flags, a wrong shape an error.

    A single frame counts as frozen in the video stage and is an ordinary picture in the input stage.
    """
    options = options or SanityOptions()

    def call() -> Verdict:
        require_frames(frames)
        measured = _measure(frames, options)
        categories = [
            name
            for name, found in (
                ("black", measured["black_share"] > options.max_share),
                ("uniform", measured["uniform_share"] > options.max_share),
                ("frozen", stage != "input" and measured["largest_difference"] <= options.frozen_difference),
            )
            if found
        ]
        return Verdict(
            stage=stage,
            check=f"{stage}.sanity",
            status="flag" if categories else "pass",
            category=categories[0] if categories else None,
            other_categories=tuple(categories[1:]),
            backend="numpy",
            evidence={**measured, "thresholds": options.model_dump(mode="json")},
        )

    return run_check(stage, f"{stage}.sanity", call, backend="numpy")


def _measure(frames: Frames, options: SanityOptions) -> dict[str, Any]:
    num_frames = len(frames)
    black = sum(int(frame.max()) <= options.black_level for frame in frames)
    # Every second pixel tells a flat frame from a picture as well as all of them, in a quarter of the time.
    uniform = sum(float(frame[::2, ::2].std(axis=(0, 1)).max()) < options.uniform_std for frame in frames)
    first = frames[0].astype(np.int16)
    differences = (float(np.abs(frame - first).mean()) for frame in frames[1:])
    return {
        "num_frames": num_frames,
        "black_share": round(black / num_frames, 4),
        "uniform_share": round(uniform / num_frames, 4),
        "largest_difference": round(max(differences, default=0.0), 4),
    }


def content_unavailable(*, stage: Stage = "video") -> Verdict:
    """The verdict on what a clip shows: nobody looked, because no visual content classifier is configured."""
    return unavailable(stage, f"{stage}.content", "no visual content classifier is configured")
