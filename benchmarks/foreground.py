"""What is not background in a clip of the traffic world, and what of it moves.

The simulator knows the still picture of every scene, so a clip that starts from the scene's first frame can be compared
with it. A generated clip may be a little blurred, and tinted as a whole: the still picture is tinted along before it is
compared, and the threshold follows the contrast of the clip, which fog and night lower.

Legend: T frames, H W height and width, C colour channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Foreground", "find_foreground", "grey", "smoothed", "strongest"]

_SIGMA_PX = 0.8
_LEAST = 9.0
"""Levels; the rain's streaks stay below."""
_SHARE = 0.16
"""Of the strongest differences of the clip."""
_APART = 2
"""Frames between which motion is seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreground:
    """Vehicles, people and their light, frame by frame."""

    smooth_THWC: np.ndarray
    """float32, the frames that were compared."""
    difference_THW: np.ndarray
    """float32, levels from the still picture, of the channel that differs most."""
    threshold: float
    present_THW: np.ndarray
    """bool."""
    moving_THW: np.ndarray
    """bool; the first two frames have none."""


def find_foreground(frames_THWC: np.ndarray, background_HWC: np.ndarray) -> Foreground:
    """Compare a clip, uint8, with the still picture of its scene, uint8."""
    smooth = smoothed(frames_THWC)
    still = smoothed(background_HWC[None])[0]
    offset = np.median(smooth[::4], axis=0) - still
    still = still + np.median(offset, axis=(0, 1))
    difference = strongest(np.abs(smooth - still))
    threshold = max(_LEAST, _SHARE * float(np.percentile(difference[::3], 99.5)))
    moving = np.zeros(difference.shape, dtype=bool)
    moving[_APART:] = strongest(np.abs(smooth[_APART:] - smooth[:-_APART])) > threshold
    return Foreground(
        smooth_THWC=smooth,
        difference_THW=difference,
        threshold=threshold,
        present_THW=difference > threshold,
        moving_THW=moving,
    )


def smoothed(frames_THWC: np.ndarray) -> np.ndarray:
    """float32 frames without the grain of single pixels."""
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), _SIGMA_PX) for frame in frames_THWC])


def strongest(values_C: np.ndarray) -> np.ndarray:
    """The largest of three channels [...]; ten times as fast as a maximum over so short an axis."""
    return np.maximum(np.maximum(values_C[..., 0], values_C[..., 1]), values_C[..., 2])


def grey(values_C: np.ndarray) -> np.ndarray:
    """The mean of three channels [...], fast for the same reason."""
    return (values_C[..., 0] + values_C[..., 1] + values_C[..., 2]) / np.float32(3)
