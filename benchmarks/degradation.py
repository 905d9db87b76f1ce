"""Simulator clips made to look as a small model's: a stand-in for generated clips where there are none.

A VAE softens, joins neighbouring frames and leaves grain; a generated clip is tinted a little. Measures that hold on
such clips are more likely to hold on generated ones.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["degraded"]

_GROUP = 4
"""Frames that one latent frame covers."""


def degraded(frames_THWC: np.ndarray, seed: int, *, strength: float = 1.0) -> np.ndarray:
    """uint8 frames: blurred in space, mixed within groups of four in time, noisy, tinted; equal seeds, equal clips."""
    rng = np.random.default_rng([seed, 11])
    frames = frames_THWC.astype(np.float32)
    for start in range(1, len(frames), _GROUP):
        group = frames[start : start + _GROUP]
        share = 0.35 * strength
        frames[start : start + _GROUP] = (1 - share) * group + share * group.mean(0)
    sigma = rng.uniform(0.6, 1.2) * strength
    tint = rng.normal(0, 2.0 * strength, 3)
    small = (frames.shape[1] // 4, frames.shape[2] // 4)
    for frame in frames:
        grain = rng.normal(0, 3.0 * strength, (*small, 3)).astype(np.float32)  # as coarse as latents are
        frame[:] = cv2.GaussianBlur(frame, (0, 0), sigma) + cv2.resize(grain, frame.shape[1::-1]) + tint
        frame += rng.normal(0, 1.5 * strength, frame.shape)
    return np.clip(np.round(frames), 0, 255).astype(np.uint8)
