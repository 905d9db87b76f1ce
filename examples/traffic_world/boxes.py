"""Vehicles as rectangles on the ground: corners, overlap and distance."""

from __future__ import annotations

import numpy as np

_CORNERS = np.array([(0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5)])


def corners(position: np.ndarray, heading: np.ndarray, length: float, width: float) -> np.ndarray:
    """Corners [..., 4, 2] of rectangles with centres [..., 2] and headings [...]."""
    cos, sin = np.cos(heading)[..., None], np.sin(heading)[..., None]
    along, across = _CORNERS[:, 0] * length, _CORNERS[:, 1] * width
    return np.stack([cos * along - sin * across, sin * along + cos * across], axis=-1) + position[..., None, :]


def gap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How far two rectangles [..., 4, 2] are apart along their best separating axis; negative: they overlap.

    The separating axis theorem (Gottschalk et al. 1996). For rectangles that are corner to corner it is less than the
    Euclidean distance.
    """
    both = np.stack([first, second], axis=-3)
    edges = np.concatenate(
        [both[..., 0, 1:3, :] - both[..., 0, 0:2, :], both[..., 1, 1:3, :] - both[..., 1, 0:2, :]], -2
    )
    axes = edges / np.linalg.norm(edges, axis=-1, keepdims=True)
    spans = np.einsum("...kcd,...ad->...kac", both, axes)
    low, high = spans.min(-1), spans.max(-1)
    apart = np.maximum(low[..., 0, :] - high[..., 1, :], low[..., 1, :] - high[..., 0, :])
    return apart.max(-1)
