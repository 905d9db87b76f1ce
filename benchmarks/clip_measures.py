"""How near a clip is to its first frame and to the simulator's truth: fidelity, steadiness, motion, speed.

Legend: T frames, H W height and width, C colour channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cv2
import numpy as np

from benchmarks.foreground import Foreground, strongest
from examples.traffic_world import Clip

__all__ = ["blob_speed", "motion_curve", "psnr", "steadiness", "still_mask", "track_speed"]

_SMALLEST_BLOB = 15
_FARTHEST_PX = 12.0
"""That a blob goes in a frame."""
_MOVES_PX = 0.3
_FEWEST_PIXELS = 200
_GROUP = 4
"""Frames of a latent frame."""


def psnr(first: np.ndarray, second: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of 8-bit pixels in dB, at most 99.

    Args:
        first: uint8 [..., C].
        second: the same shape.
        where: bool [...], the pixels that count.
    """
    squared = (first.astype(np.float32) - second.astype(np.float32)) ** 2
    error = float((squared if where is None else squared[where]).mean())
    return min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def still_mask(truths: Sequence[Clip], seen: Foreground) -> np.ndarray:
    """Pixels [H, W] that nothing covers or lights, neither in the simulator's courses nor in the clip itself.

    In the clip only things of some breadth count as covering: the thin fringes that an unsteady picture leaves along
    its edges are what steadiness is there to find.
    """
    covered = np.zeros(seen.present_THW.shape[1:], dtype=bool)
    for clip in truths:
        changes = strongest(np.abs(clip.frames.astype(np.int16) - clip.background))
        # the second largest value: a streak of rain crosses a pixel in one frame
        covered |= np.partition(changes, -3, axis=0)[-3] > 12
    for present in seen.present_THW[::2]:
        covered |= cv2.morphologyEx(present.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    return cv2.dilate(covered.astype(np.uint8), np.ones((7, 7), np.uint8)) == 0


def steadiness(frames_THWC: np.ndarray, still_HW: np.ndarray) -> float:
    """Mean absolute difference from the first frame over still pixels, in 8-bit levels; NaN if hardly any is still."""
    if still_HW.sum() < _FEWEST_PIXELS:
        return float("nan")
    pixels = frames_THWC[:, still_HW].astype(np.int16)
    return float(np.abs(pixels[1:] - pixels[0]).mean())


def motion_curve(seen: Foreground) -> np.ndarray:
    """Share of moving pixels [T - 5], mean over four frames: within a latent frame motion comes in jerks."""
    moving = seen.moving_THW[2:].mean((1, 2))  # the first two have nothing to be compared with
    return np.convolve(moving, np.ones(_GROUP) / _GROUP, mode="valid")


def blob_speed(seen: Foreground) -> float:
    """Mean speed of moving blobs in pixels per frame, matched from frame to frame; NaN if nothing moves."""
    blobs = [_blobs(moving) for moving in seen.moving_THW]
    speeds: list[float] = []
    for (before, size_before), (after, size_after) in itertools.pairwise(blobs):
        if not len(before) or not len(after):
            continue
        apart = np.linalg.norm(before[:, None] - after[None], axis=-1)
        alike = np.abs(np.log(size_before[:, None] / size_after[None])) < 0.4
        apart = np.where(alike, apart, np.inf)
        nearest = apart.argmin(1)
        mutual = apart.argmin(0)[nearest] == np.arange(len(before))
        chosen = apart[np.arange(len(before)), nearest]
        speeds += chosen[mutual & (chosen < _FARTHEST_PX)].tolist()
    return float(np.mean(speeds)) if speeds else float("nan")


def track_speed(clip: Clip) -> float:
    """Mean speed of the simulator's vehicles while they are seen to move, in pixels per frame."""
    speeds: list[float] = []
    for track in clip.tracks:
        centres = (track.box_px[:, :2] + track.box_px[:, 2:]) / 2
        steps = np.linalg.norm(np.diff(centres, axis=0), axis=-1)
        both = track.visible[1:] & track.visible[:-1]
        speeds += steps[both & (steps > _MOVES_PX)].tolist()
    return float(np.mean(speeds)) if speeds else float("nan")


def _blobs(moving_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [N, 2] and areas [N]; blobs at the border are left out, as they are cut."""
    height, width = moving_HW.shape
    closed = cv2.morphologyEx(moving_HW.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    _, _, stats, centres = cv2.connectedComponentsWithStats(closed)
    x, y, wide, high, area = stats[1:].T
    whole = (x > 0) & (y > 0) & (x + wide < width) & (y + high < height) & (area >= _SMALLEST_BLOB)
    return centres[1:][whole], area[whole].astype(float)
