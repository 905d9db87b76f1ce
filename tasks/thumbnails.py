"""A filmstrip of a clip: what a person needs to see of it without playing it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

__all__ = ["filmstrip"]


def filmstrip(frames_THWC: np.ndarray, *, num_frames: int = 5, height: int = 112, quality: int = 85) -> bytes:
    """Evenly spaced frames side by side, first and last included, as JPEG.

    Args:
        frames_THWC: uint8 RGB, [T, H, W, 3].
        num_frames: how many to show.
        height: height of the strip in pixels.
    """
    picked = np.linspace(0, len(frames_THWC) - 1, num=min(num_frames, len(frames_THWC))).round().astype(int)
    width = round(frames_THWC.shape[2] * height / frames_THWC.shape[1])
    gap = 2
    strip = Image.new("RGB", (len(picked) * (width + gap) - gap, height), (255, 255, 255))
    for place, index in enumerate(picked):
        frame = Image.fromarray(frames_THWC[index]).resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(frame, (place * (width + gap), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
