"""Rows of characters, the classical way: ink blobs of equal height, side by side on one line.

It complements the plate cascade, which knows one kind of plate only. It cannot read, so short writing on a sign or in
the picture's corner is a row as well.

Legend: H W height and width in pixels; grey pictures are uint8 [H, W]. Boxes are whole pixels x, y, width, height.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["ALGORITHM", "find_character_rows"]

ALGORITHM = "character-rows-1"
"""Name and version: it goes into verdicts, so a change of the rules below takes the next number."""

_MAX_HEIGHT = 90  # of a character: above, it would fill the picture
_COUNT = (5, 9)  # characters on a plate
_ASPECT = (2.0, 9.0)  # of the whole row
_GAP = 0.5  # usual distance of two characters, in heights; windows of a house stand further apart
_VARIETY = 0.08  # deviation of their ink: letters differ, the stripes of a crosswalk do not
_SLOPE = 0.3  # how far a character may stand above or below its neighbour, in heights: plates hang askew
_INK = (0.18, 0.92)  # share of its box that a character fills
_WINDOWS = (15, 41)  # of the adaptive threshold: for small and for large characters
_CONTRAST = 15  # grey levels by which ink differs from what surrounds it

Ints = npt.NDArray[np.int64]


def find_character_rows(grey: npt.NDArray[np.uint8], *, min_height: int) -> list[tuple[int, int, int, int]]:
    """Boxes around rows of five to nine characters, dark on bright or bright on dark, widened by a third of a line.

    Args:
        min_height: of a character; one of fewer than six pixels of the picture as it was taken cannot be read.
    """
    found = set()
    for picture in (grey, 255 - grey):
        for window in _WINDOWS:
            blobs = _blobs(picture, window, min_height)
            found |= {_box(blobs[row]) for row in _rows(blobs) if _is_plate_like(blobs[row])}
    return sorted(found)


def _blobs(picture: npt.NDArray[np.uint8], window: int, min_height: int) -> Ints:
    """Connected ink of the shape of a character as [N, 5] x, y, width, height, area, from left to right."""
    import cv2

    ink = cv2.adaptiveThreshold(picture, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY_INV, window, _CONTRAST)
    stats = cv2.connectedComponentsWithStats(ink, connectivity=8)[2][1:].astype(np.int64)
    width, height, area = stats[:, 2], stats[:, 3], stats[:, 4]
    is_character = (height >= min_height) & (height <= _MAX_HEIGHT)
    is_character &= (width >= 0.12 * height) & (width <= 1.3 * height)
    is_character &= (area >= _INK[0] * width * height) & (area <= _INK[1] * width * height)
    blobs = stats[is_character]
    return blobs[np.lexsort((blobs[:, 1], blobs[:, 0]))]


def _rows(blobs: Ints) -> list[list[int]]:
    """Indices of blobs that stand on one line, each row once."""
    follower = [_right_neighbour(blobs, index) for index in range(len(blobs))]
    starts = set(range(len(blobs))) - set(follower)
    rows = []
    for start in sorted(starts):
        row, index = [start], follower[start]
        while index is not None:
            row.append(index)
            index = follower[index]
        rows.append(row)
    return rows


def _right_neighbour(blobs: Ints, index: int) -> int | None:
    """The next blob to the right that is about as high, on the same line, and no further than a space away."""
    x, y, width, height = blobs[index, :4]
    stop = int(np.searchsorted(blobs[:, 0], x + width + 1.1 * height, side="right"))
    later = blobs[index + 1 : stop]
    gap = later[:, 0] - (x + width)
    fits = gap >= -0.2 * width
    fits &= np.abs(later[:, 3] - height) <= 0.2 * np.maximum(later[:, 3], height) + 1
    fits &= np.abs((later[:, 1] + later[:, 3] / 2) - (y + height / 2)) <= _SLOPE * height + 1
    first = np.flatnonzero(fits)
    return index + 1 + int(first[0]) if len(first) else None


def _extent(blobs: Ints) -> tuple[int, int, int, int]:
    left, top = blobs[:, 0].min(), blobs[:, 1].min()
    right, bottom = (blobs[:, 0] + blobs[:, 2]).max(), (blobs[:, 1] + blobs[:, 3]).max()
    return int(left), int(top), int(right - left), int(bottom - top)


def _is_plate_like(blobs: Ints) -> bool:
    if not _COUNT[0] <= len(blobs) <= _COUNT[1]:
        return False
    _, _, width, height = _extent(blobs)
    gaps = blobs[1:, 0] - (blobs[:-1, 0] + blobs[:-1, 2])
    ink = blobs[:, 4] / blobs[:, 3] ** 2
    varies = float(ink.std()) >= _VARIETY * float(ink.mean())
    is_dense = float(np.median(gaps)) <= _GAP * float(np.median(blobs[:, 3]))
    return is_dense and varies and _ASPECT[0] <= width / height <= _ASPECT[1]


def _box(blobs: Ints) -> tuple[int, int, int, int]:
    x, y, width, height = _extent(blobs)
    margin = round(height / 3)
    return x - margin, y - margin, width + 2 * margin, height + 2 * margin
