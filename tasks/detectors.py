"""What finds faces and number plates in one frame, without a model's weights: OpenCV's cascades.

Legend: H W height and width in pixels; a frame is uint8 RGB [H, W, 3]. Boxes are whole pixels x, y, width, height. The
cascades know upright frontal faces, and plates that look like a European one: one line of dark letters on a bright
strip four to five times as wide as high. What they do not find is not thereby absent.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from cosmos_core.hashing import sha256_file
from tasks.character_rows import ALGORITHM, find_character_rows
from tasks.frame_sanity import Frames
from tasks.verdicts import CheckUnavailable

__all__ = [
    "Box",
    "Detector",
    "FaceSearch",
    "FrameByFrame",
    "HaarFaceDetector",
    "Kind",
    "PlateDetector",
    "PlateSearch",
    "around",
]

Box = tuple[int, int, int, int]
Kind = Literal["face", "plate"]

_FACES = "haarcascade_frontalface_alt2.xml"  # far fewer false boxes on street scenes than `default` or `alt`
_PLATES = "haarcascade_russian_plate_number.xml"  # the other one, `rus_16stages`, finds next to nothing
_FACE_WINDOW = 20  # side of that cascade's training window: a smaller face, in searched pixels, cannot be found
_IMPORTING = threading.Lock()
# OpenCV's package takes itself out of sys.modules while it loads: a second thread would see it without its cascades.

_LARGEST_ROW_SEARCH = 1440
"""Frames are enlarged for the search of characters only up to this short side."""


class FaceSearch(BaseModel):
    """How faces are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_px: int = Field(default=12, ge=4)
    """Smallest face side looked for, in pixels of the clip; limited from below by 20 searched pixels."""
    search_short_side: int = Field(default=448, ge=64)
    """Smaller frames are enlarged (at most four times) until their short side has this many pixels."""
    scale: float = Field(default=1.0, gt=0, le=1)
    """Larger frames are searched at this fraction of their size."""
    min_neighbors: int = Field(default=3, ge=1)
    """Overlapping detections that make a face."""


class PlateSearch(BaseModel):
    """How number plates are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_neighbors: int = Field(default=3, ge=1)
    """Overlapping detections of the cascade that make a plate."""
    min_character_px: int = Field(default=6, ge=4)
    """Smallest height of a character looked for, in pixels of the clip; below it is not legible, but windows are."""
    max_width_share: float = Field(default=0.35, gt=0, le=1)
    """Widest plate, as a share of the picture's width: the cascade takes a near crosswalk for a larger one."""
    character_rows: bool = True
    """Also take rows of five to nine equally high characters for plates, on which the cascade's weakness is greatest:
    plates of two lines of text. Other short writing in the picture is then covered as well."""


class Detector(Protocol):
    """Anything that finds one kind of thing in one frame."""

    kind: Kind
    name: str
    sha256: str
    """Hash of the file that it looks with."""

    def enlargement(self, height: int, width: int) -> float:
        """Factor at which a frame of that size is searched."""
        ...

    def detect_many(self, frames: Frames) -> list[list[Box]]:
        """Boxes in each of some frames [T, H, W, 3], in the frame's own pixels, sorted."""
        ...


class FrameByFrame(ABC):
    """A detector that gains nothing from several frames at once."""

    @abstractmethod
    def detect(self, frame: Frames) -> list[Box]:
        """Boxes in a frame [H, W, 3], sorted."""

    def detect_many(self, frames: Frames) -> list[list[Box]]:
        """Boxes in each of some frames [T, H, W, 3]."""
        return [self.detect(frame) for frame in frames]


class HaarFaceDetector(FrameByFrame):
    """OpenCV's frontal-face cascade on the enlarged grey frame.

    Raises:
        CheckUnavailable: OpenCV is missing, is a release without cascades (5.x), or comes without the cascade file.
    """

    kind: Kind = "face"
    name = _FACES

    def __init__(self, options: FaceSearch) -> None:
        self._cascade, self.sha256 = _load_cascade(self.name)
        self._options = options

    def enlargement(self, height: int, width: int) -> float:
        """Factor at which a frame of that size is searched, in (0, 4]."""
        wanted = self._options.search_short_side / min(height, width)
        return min(wanted, 4.0) if wanted > 1 else self._options.scale

    def detect(self, frame: Frames) -> list[Box]:
        """Boxes of a frame [H, W, 3] in its own pixels, sorted: the cascade's threads leave no fixed order."""
        factor = self.enlargement(*frame.shape[:2])
        grey = _grey(frame, factor)
        least = max(_FACE_WINDOW, round(self._options.min_px * factor))
        # Enlarged frames are smooth, so a coarser pyramid finds as many faces there in half the time.
        step = 1.2 if factor >= 2 else 1.1
        found = self._cascade.detectMultiScale(grey, step, self._options.min_neighbors, minSize=(least, least))
        return sorted(_outer_box(*(float(value) / factor for value in box)) for box in found)


class PlateDetector(FrameByFrame):
    """OpenCV's plate cascade, and rows of characters.

    Raises:
        CheckUnavailable: as for faces.
    """

    kind: Kind = "plate"

    def __init__(self, options: PlateSearch) -> None:
        self._cascade, self.sha256 = _load_cascade(_PLATES)
        self._options = options
        self.name = f"{_PLATES} + {ALGORITHM}" if options.character_rows else _PLATES

    def enlargement(self, height: int, width: int) -> float:
        """Factor at which the cascade searches; characters are looked for at twice the size on frames up to 720."""
        return 1.0

    def detect(self, frame: Frames) -> list[Box]:
        """Boxes of a frame [H, W, 3], those of one plate joined, sorted."""
        grey = _grey(frame, 1.0)
        found = [_outer_box(*box) for box in self._cascade.detectMultiScale(grey, 1.1, self._options.min_neighbors)]
        if self._options.character_rows:
            factor = 2.0 if 2 * min(grey.shape) <= _LARGEST_ROW_SEARCH else 1.0
            rows = find_character_rows(_grey(frame, factor), min_height=round(self._options.min_character_px * factor))
            found += [_outer_box(*(value / factor for value in box)) for box in rows]
        widest = self._options.max_width_share * grey.shape[1]
        return sorted(_joined([box for box in found if box[2] <= widest]))


def _joined(boxes: list[Box]) -> list[Box]:
    """Boxes of which none covers much of another: two that do become the one around both."""
    result: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box[2] * box[3]):
        for index, other in enumerate(result):
            if _overlap(box, other) > 0.3:
                result[index] = around(box, other)
                break
        else:
            result.append(box)
    return result


def _overlap(one: Box, other: Box) -> float:
    """Shared area as a share of the smaller box."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height) / max(1, min(one[2] * one[3], other[2] * other[3]))


def around(one: Box, other: Box) -> Box:
    """The smallest box around two."""
    left, top = min(one[0], other[0]), min(one[1], other[1])
    right, bottom = max(one[0] + one[2], other[0] + other[2]), max(one[1] + one[3], other[1] + other[3])
    return left, top, right - left, bottom - top


def _load_cascade(name: str) -> tuple[Any, str]:
    try:
        with _IMPORTING:
            import cv2
    except ImportError as problem:
        raise CheckUnavailable(
            "OpenCV is not installed", got=problem, fix="Install opencv-python-headless>=4.10,<5."
        ) from None
    path = Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / name
    if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
        raise CheckUnavailable(
            f"this OpenCV has no cascade {name}", got=cv2.__version__, fix="Install opencv-python-headless>=4.10,<5."
        )
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise CheckUnavailable("the cascade cannot be read", got=name, fix="Reinstall OpenCV.")
    return cascade, _file_hash(str(path))


def _grey(frame: Frames, factor: float) -> Frames:
    import cv2

    grey: Frames = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    if factor != 1:
        how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
        grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=how)
    return grey


def _outer_box(x: float, y: float, width: float, height: float) -> Box:
    left, top = math.floor(x), math.floor(y)
    return left, top, math.ceil(x + width) - left, math.ceil(y + height) - top


@lru_cache(maxsize=8)
def _file_hash(path: str) -> str:
    return sha256_file(path)
