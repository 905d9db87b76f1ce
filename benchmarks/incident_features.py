"""What a collision looks like from afar, in numbers: two vehicles stop dead, touching, in the open road, and stay.

Nothing but pixels is used: the frames, and the still picture of the scene to tell vehicles from the street. The
"wreck" is the largest thing that stands at the end and did not at the beginning; it may as well be a vehicle that
waits, and most of the numbers say how it came to stand.

Legend: T frames, H W height and width, C colour channels.
"""

from __future__ import annotations

import itertools

import cv2
import numpy as np

from benchmarks.foreground import Foreground, grey, strongest

__all__ = ["FEATURES", "incident_features"]

FEATURES = (
    "standing",  # area of all that stands at the end, as a length
    "standing_middle",  # the same, weighted by closeness to the middle of the picture
    "standing_parts",  # in how many pieces
    "late_motion",  # moving area at the end, as a length
    "calm",  # the same over the liveliest moments
    "calm_tail",  # share of the clip from the last lively moment on
    "pause",  # the stillest stretch in the middle over the liveliest moments
    "halt",  # how much of all motion ends within half a second
    "wreck",  # area of the wreck, as a length
    "wreck_extent",  # its diagonal
    "wreck_fill",  # its share of the rectangle around it
    "wreck_off_centre",
    "wreck_merged",  # its area over that of the largest moving piece
    "wreck_contrast",  # spread of its light
    "wreck_colours",  # spread of its hues: two vehicles have two
    "wreck_bits",  # specks around it
    "wreck_settled",  # when it last changed
    "wreck_settling",  # for how long it changed, since something was first there
    "wreck_approach",  # speed near it before it stood
    "wreck_halt",  # how much of the motion near it ends within half a second
    "wreck_directions",  # spread of directions of motion over its place
    "wreck_turning",  # rotation near it
    "wreck_passing",  # motion near it at the end
    "wreck_blinking",
)

_LAST = 10
"""Frames over which something has to stand to count as standing at the end."""
_HALF_SECOND = 5
_EDGE = 0.04
"""Share of the picture along its border that does not count: who stands there may wait for something unseen."""
_NO_WRECK = {"wreck_off_centre": 0.5, "wreck_settled": 1.0}


def incident_features(seen: Foreground) -> np.ndarray:
    """The numbers of FEATURES for a clip of about six seconds at 10 frames per second."""
    flow = _flow(seen)
    standing = _standing(seen)
    found = _standing_features(standing) | _motion_features(seen, flow) | _wreck_features(seen, flow, standing)
    return np.array([found[name] for name in FEATURES])


def _flow(seen: Foreground) -> np.ndarray:
    """[T - 1, H, W, 2] pixels per frame, zero on the background."""
    pictures = np.clip(grey(seen.smooth_THWC), 0, 255).astype(np.uint8)
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = np.stack([search.calc(one, two, None) for one, two in itertools.pairwise(pictures)])
    return flow * seen.present_THW[1:, ..., None]


def _standing(seen: Foreground) -> np.ndarray:
    """[H, W] bool: in the foreground and unmoved for most of the last frames, and not there at the beginning."""
    late = np.percentile(seen.difference_THW[-_LAST:], 20, axis=0) > seen.threshold
    still = seen.moving_THW[-_LAST:].mean(0) < 0.3
    early = np.median(seen.difference_THW[:6], axis=0) > seen.threshold
    return late & still & ~early


def _standing_features(standing_HW: np.ndarray) -> dict[str, float]:
    height, width = standing_HW.shape
    y, x = np.mgrid[0:height, 0:width]
    weight = np.exp(-((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2) / (2 * 0.22**2))
    sizes = _pieces(standing_HW)[1]
    return {
        "standing": float(np.sqrt(standing_HW.mean())),
        "standing_middle": float(np.sqrt((standing_HW * weight).mean())),
        "standing_parts": float(np.sqrt((sizes >= 20).sum())),
    }


def _motion_features(seen: Foreground, flow: np.ndarray) -> dict[str, float]:
    moving = seen.moving_THW.mean((1, 2))
    lively = np.sort(moving)[-_LAST:].mean() + 2e-3
    smooth = np.convolve(moving, np.ones(_LAST) / _LAST, mode="valid")
    awake = np.flatnonzero(moving > 0.3 * lively)
    return {
        "late_motion": float(np.sqrt(moving[-_LAST:].mean())),
        "calm": float((moving[-_LAST:].mean() + 2e-3) / lively),
        "calm_tail": 1 - (float(awake[-1]) / len(moving) if len(awake) else 0.0),
        "pause": float((smooth[len(smooth) // 3 : -_LAST // 2].min() + 2e-3) / lively),
        "halt": _halt(np.linalg.norm(flow, axis=-1).mean((1, 2)), 1e-2),
    }


def _wreck_features(seen: Foreground, flow: np.ndarray, standing_HW: np.ndarray) -> dict[str, float]:
    wreck = _wreck(standing_HW)
    if not wreck.any():
        return {name: _NO_WRECK.get(name, 0.0) for name in FEATURES if name.startswith("wreck")}
    return _wreck_shape(seen, wreck, standing_HW) | _wreck_history(seen, wreck) | _wreck_motion(seen, flow, wreck)


def _wreck(standing_HW: np.ndarray) -> np.ndarray:
    """The largest piece that is not at the border, [H, W] bool."""
    labels, sizes, centres = _pieces(cv2.morphologyEx(standing_HW.astype(np.uint8), cv2.MORPH_CLOSE, _square(3)) > 0)
    shares = centres / standing_HW.shape[::-1]
    inside = ((shares > _EDGE) & (shares < 1 - _EDGE)).all(-1)
    if not inside.any():
        return np.zeros(standing_HW.shape, dtype=bool)
    return labels == 1 + int(np.where(inside, sizes, -1).argmax())


def _wreck_shape(seen: Foreground, wreck_HW: np.ndarray, standing_HW: np.ndarray) -> dict[str, float]:
    height, width = wreck_HW.shape
    y, x = np.nonzero(wreck_HW)
    colours = seen.smooth_THWC[-_LAST:].mean(0)[wreck_HW]
    around = _grown(wreck_HW, 31) & ~_grown(wreck_HW, 3)
    bits = _pieces(standing_HW & around)[1]
    largest = [_pieces(frame)[1].max(initial=0) for frame in seen.moving_THW[2::2]]
    return {
        "wreck": float(np.sqrt(wreck_HW.mean())),
        "wreck_extent": float(np.hypot(np.ptp(x), np.ptp(y)) / width),
        "wreck_fill": float(len(x) / ((np.ptp(x) + 1) * (np.ptp(y) + 1))),
        "wreck_off_centre": float(max(abs(x.mean() / width - 0.5), abs(y.mean() / height - 0.5))),
        "wreck_merged": float(np.log((len(x) + 10) / (np.percentile(largest, 90) + 10))),
        "wreck_contrast": _spread(colours) / 50,
        "wreck_colours": _spread(colours - colours.mean(1, keepdims=True)) / 25,
        "wreck_bits": float(np.log1p((bits < 20).sum())),
    }


def _wreck_history(seen: Foreground, wreck_HW: np.ndarray) -> dict[str, float]:
    """When the wreck took its last look, and how long after something came to its place."""
    here = seen.smooth_THWC[:, wreck_HW]
    same = strongest(np.abs(here - here[-_LAST:].mean(0))) < max(seen.threshold, 14)
    settled = _last(same.mean(1) < 0.6)
    empty = _last(seen.present_THW[:, wreck_HW].mean(1) < 0.3)
    light = strongest(here[-2 * _LAST :])
    return {
        "wreck_settled": settled / len(same),
        "wreck_settling": (_last(same.mean(1) < 0.8) - empty) / len(same),
        "wreck_blinking": float(np.abs(np.diff(light, axis=0)).mean()),
    }


def _wreck_motion(seen: Foreground, flow: np.ndarray, wreck_HW: np.ndarray) -> dict[str, float]:
    near = _grown(wreck_HW, 15)
    area = max(float(wreck_HW.sum()), 40.0)
    speed = np.linalg.norm(flow, axis=-1)
    momentum = speed[:, near].sum(1) / area
    turning = np.abs(np.gradient(flow[..., 1], axis=2) - np.gradient(flow[..., 0], axis=1))[:, near].sum(1) / area
    over = flow[:, wreck_HW]
    strength = np.linalg.norm(over, axis=-1)
    along = np.linalg.norm(over.sum((0, 1)))
    return {
        "wreck_approach": float(np.log1p(np.sort(momentum)[-_HALF_SECOND:].mean())),
        "wreck_halt": _halt(momentum, 0.1),
        "wreck_directions": 1 - float(along / (strength.sum() + 1e-3)) if strength.sum() > area else 0.0,
        "wreck_turning": float(np.log1p(np.sort(turning)[-_HALF_SECOND:].mean())),
        "wreck_passing": float(np.sqrt(seen.moving_THW[-_LAST:][:, near].mean())),
    }


def _halt(motion_T: np.ndarray, floor: float) -> float:
    """The largest fall of motion within half a second over its peak."""
    smooth = np.convolve(motion_T, np.ones(3) / 3, mode="same")
    return float((smooth[:-_HALF_SECOND] - smooth[_HALF_SECOND:]).max() / (smooth.max() + floor))


def _last(which_T: np.ndarray) -> int:
    """The last frame of which something is true; 0 if there is none."""
    frames = np.flatnonzero(which_T)
    return int(frames[-1]) if len(frames) else 0


def _spread(colours_NC: np.ndarray) -> float:
    """Standard deviation along the axis where it is largest."""
    if len(colours_NC) < 4:
        return 0.0
    return float(np.sqrt(max(np.linalg.eigvalsh(np.cov(colours_NC.T))[-1], 0.0)))


def _pieces(mask_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels [H, W] from 1 on, and areas [N] and centres (x, y) [N, 2] of connected pieces."""
    _, labels, stats, centres = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    return labels, stats[1:, cv2.CC_STAT_AREA], centres[1:]


def _grown(mask_HW: np.ndarray, size: int) -> np.ndarray:
    return cv2.dilate(mask_HW.astype(np.uint8), _square(size)) > 0


def _square(size: int) -> np.ndarray:
    return np.ones((size, size), np.uint8)
