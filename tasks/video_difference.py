"""Where two videos differ: how much over all, and the first frame and pixel in which they do.

Legend: T frames, H W height and width; frames are uint8 RGB [T, H, W, 3].
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadInput

__all__ = ["VideoDifference", "compare_frames"]


class VideoDifference(BaseModel):
    """How a video differs from another one of the same size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int
    num_different_frames: int
    """0 where only the files differ, not what they show."""
    psnr_db: float | None
    """Over all frames, with a peak of 255; None where all are equal."""
    max_error: int
    """Of one channel of one pixel, 0..255."""
    first_frame: int | None
    """Counted from 0; None where all are equal."""
    first_pixel: tuple[int, int] | None
    """Column and row of the first different pixel of that frame, in reading order."""
    expected_rgb: tuple[int, int, int] | None
    got_rgb: tuple[int, int, int] | None


def compare_frames(expected: np.ndarray, got: np.ndarray) -> VideoDifference:
    """Compare two videos frame by frame.

    Args:
        expected: uint8 [T, H, W, 3].
        got: of the same shape.

    Raises:
        BadInput: they are of different sizes.
    """
    if expected.shape != got.shape:
        raise BadInput("the videos have different sizes", got=_size(got), expected=_size(expected))
    squares, max_error, different = 0, 0, list[int]()
    for index, (theirs, ours) in enumerate(zip(expected, got, strict=True)):
        error = theirs.astype(np.int32) - ours
        if error.any():
            different.append(index)
            squares += int(np.square(error).sum())
            max_error = max(max_error, int(np.abs(error).max()))
    first = different[0] if different else None
    pixel = None if first is None else _first_pixel(expected[first], got[first])
    return VideoDifference(
        num_frames=len(expected),
        num_different_frames=len(different),
        psnr_db=10 * math.log10(255**2 * expected.size / squares) if squares else None,
        max_error=max_error,
        first_frame=first,
        first_pixel=pixel,
        expected_rgb=_rgb(expected, first, pixel),
        got_rgb=_rgb(got, first, pixel),
    )


def _first_pixel(expected: np.ndarray, got: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero((expected != got).any(axis=-1))
    return int(columns[0]), int(rows[0])


def _rgb(frames: np.ndarray, frame: int | None, pixel: tuple[int, int] | None) -> tuple[int, int, int] | None:
    if frame is None or pixel is None:
        return None
    red, green, blue = (int(value) for value in frames[frame, pixel[1], pixel[0]])
    return red, green, blue


def _size(frames: np.ndarray) -> str:
    return f"{len(frames)} frames of {frames.shape[2]} x {frames.shape[1]}"
