"""Whether a clip shows what its prompt says, without a vision model: colours, time of day, weather.

Legend: T frames, H W height and width, C colour channels.
"""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.foreground import Foreground, grey, strongest
from examples.traffic_world import Clip

__all__ = ["COLOUR_FEATURES", "LIGHT_FEATURES", "colour_features", "light_features", "subject_place"]

_HUES = (15, 35, 65, 95, 175, 200, 260, 330)
"""Borders of the bins of hue, degrees; the last bin joins the first."""
_LIGHTS = (0.35, 0.7, 1.1, 1.6, 2.2, 3.0)
"""Borders of the bins of brightness of grey pixels, relative to the road's."""
_SATURATED = 0.28
COLOUR_FEATURES = (
    *(f"hue to {hue}" for hue in _HUES),
    *(f"grey to {light}" for light in _LIGHTS),
    "brighter grey",
    "road light",
)
LIGHT_FEATURES = (
    "light",
    "black",
    "white",
    "contrast",
    "detail",
    "warmth",
    "saturation",
    "flicker",
    "sky",
    "far detail",
)
_MARGIN_PX = 3


def subject_place(clip: Clip) -> np.ndarray:
    """[T, H, W] bool: where the simulator's subject is in the picture, with a little margin."""
    time, height, width, _ = clip.frames.shape
    place = np.zeros((time, height, width), dtype=bool)
    track = clip.tracks[0]
    for number in np.flatnonzero(track.visible):
        x0, y0, x1, y1 = track.box_px[number]
        rows = slice(max(int(y0) - _MARGIN_PX, 0), int(y1) + _MARGIN_PX)
        place[number, rows, max(int(x0) - _MARGIN_PX, 0) : int(x1) + _MARGIN_PX] = True
    return place


def colour_features(seen: Foreground, background_HWC: np.ndarray, place_THW: np.ndarray) -> np.ndarray | None:
    """Shares of hues and of greys among foreground pixels in a place; None if there is nothing.

    The light is taken from the road, the median of the lower two thirds of the still picture, so that white is white
    under street lamps.
    """
    road = background_HWC[background_HWC.shape[0] // 3 :].reshape(-1, 3)
    tone = np.median(road, axis=0)
    where = place_THW & seen.present_THW
    if where.sum() < 60:
        return None
    pixels = seen.smooth_THWC[where] / (tone / tone.mean()) ** 0.7
    bright = strongest(pixels)
    pale = (bright + strongest(-pixels)) / np.maximum(bright, 1) < _SATURATED
    hue = cv2.cvtColor((np.clip(pixels, 0, 255) / 255).astype(np.float32)[None], cv2.COLOR_RGB2HSV)[0, :, 0]
    bins = np.digitize(hue, _HUES) % len(_HUES)
    hues = np.bincount(bins[~pale], minlength=len(_HUES)) / len(pixels)
    levels = np.digitize(pixels[pale].mean(-1) / max(float(tone.mean()), 8.0), _LIGHTS)
    greys = np.bincount(levels, minlength=len(_LIGHTS) + 1) / len(pixels)
    return np.sqrt(np.concatenate([hues, greys, [float(tone.mean()) / 255]]))


def light_features(frames_THWC: np.ndarray) -> np.ndarray:
    """Numbers of LIGHT_FEATURES over the second half of a clip, where a generated one has gone its own way."""
    late = frames_THWC[len(frames_THWC) // 2 :: 3].astype(np.float32)
    light = grey(late)
    still = np.median(light, axis=0)
    top = late[:, : late.shape[1] // 6].mean((0, 1, 2))
    edges = [np.abs(np.diff(part, axis=1)).mean() for part in (still, still[: len(still) // 4])]
    low, high = np.percentile(still, (2, 98))
    brightest = strongest(late)
    saturation = (brightest + strongest(-late)) / np.maximum(brightest, 1)
    flicker = np.percentile(np.abs(light - still), 80)
    warmth = late[..., 0].mean() - late[..., 2].mean()
    return np.array(
        [still.mean(), low, high, high - low, edges[0], warmth, saturation.mean(), flicker, top.mean(), edges[1]]
    )
