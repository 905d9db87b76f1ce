"""Face redaction without a model's weights: find faces, cover them, look again.

Legend: T frames, H W height and width in pixels; frames are uint8 RGB [T, H, W, 3]. Boxes are whole pixels x, y,
width, height. The detector is OpenCV's frontal-face cascade: it knows upright frontal faces and nothing else, so a
pass means "the cascade finds no face", not "nobody can be recognised".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cosmos_core.hashing import sha256_file
from tasks.frame_sanity import Frames, SanityOptions, check_frames, content_unavailable, require_frames
from tasks.verdicts import CheckUnavailable, Stage, Verdict, run_check

__all__ = [
    "FaceDetector",
    "HaarFaceDetector",
    "RedactionOptions",
    "RedactionReport",
    "Region",
    "SanityOptions",
    "check_frames",
    "check_redaction",
    "content_unavailable",
    "redact_faces",
    "redaction_verdict",
]

Box = tuple[int, int, int, int]

_BACKEND = "opencv-haar"
_CASCADE = "haarcascade_frontalface_alt2.xml"  # far fewer false boxes on street scenes than `default` or `alt`
_WINDOW = 20  # side of that cascade's training window: a face smaller than this, in searched pixels, cannot be found


class RedactionOptions(BaseModel):
    """How faces are found and covered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_px: int = Field(default=12, ge=4)
    """Smallest face side looked for, in pixels of the clip; limited from below by 20 searched pixels."""
    search_short_side: int = Field(default=448, ge=64)
    """Smaller frames are enlarged (at most four times) until their short side has this many pixels."""
    scale: float = Field(default=1.0, gt=0, le=1)
    """Larger frames are searched at this fraction of their size."""
    min_neighbors: int = Field(default=3, ge=1)
    """Overlapping detections that make a face."""
    stride: int = Field(default=4, ge=1)
    """Every stride-th frame, and the last, is a key frame that is searched."""
    hold: int = Field(default=1, ge=1)
    """A face found on a key frame is covered for this many strides before and after it."""
    pad: float = Field(default=0.25, ge=0, le=2)
    """Widening of a box on each side, as a share of its size."""
    method: Literal["pixelate", "fill"] = "pixelate"
    """Mosaic of at most four cells a side, or one flat colour."""
    max_rounds: int = Field(default=3, ge=1)
    """Rounds of covering and looking again; from the second on boxes are filled."""


class Region(BaseModel):
    """One covered rectangle and the frames on which it is covered, first and last included."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_frame: int
    last_frame: int
    x: int
    y: int
    width: int
    height: int


class RedactionReport(BaseModel):
    """What was found, what was covered, and what a second look still found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_frames: int
    num_detected: int
    """Detections on searched frames that led to a covered region; a face counts once a searched frame."""
    num_frames_with_faces: int
    """Frames that carry a covered region. All others are unchanged to the bit."""
    regions: tuple[Region, ...]
    """Padded rectangles: one a detection, and one over the way between two detections of a moving face."""
    residual: int
    """Detections that remain after the last round."""
    residual_frames: tuple[int, ...]
    num_rounds: int
    """Rounds of covering; 0 if nothing was found."""
    num_searches: int
    """Frames searched, verification included."""
    parameters: RedactionOptions
    enlargement: float
    """Factor between the clip's pixels and the searched ones."""
    detector: str
    detector_sha256: str
    duration_s: float


class FaceDetector(Protocol):
    """Anything that finds faces in one frame."""

    name: str
    sha256: str

    def enlargement(self, height: int, width: int) -> float:
        """Factor at which a frame of that size is searched."""
        ...

    def detect(self, frame: Frames) -> list[Box]:
        """Boxes in a frame [H, W, 3], sorted."""
        ...


class HaarFaceDetector:
    """OpenCV's frontal-face cascade on the enlarged grey frame.

    Raises:
        CheckUnavailable: OpenCV is missing, is a release without cascades (5.x), or comes without the cascade file.
    """

    name = _CASCADE

    def __init__(self, options: RedactionOptions) -> None:
        try:
            import cv2
        except ImportError as problem:
            raise CheckUnavailable(
                "OpenCV is not installed", got=problem, fix="Install opencv-python-headless>=4.10,<5."
            ) from None
        path = Path(getattr(getattr(cv2, "data", None), "haarcascades", "")) / _CASCADE
        if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
            raise CheckUnavailable(
                "this OpenCV has no face cascade", got=cv2.__version__, fix="Install opencv-python-headless>=4.10,<5."
            )
        self._cascade = cv2.CascadeClassifier(str(path))
        if self._cascade.empty():
            raise CheckUnavailable("the face cascade cannot be read", got=path.name, fix="Reinstall OpenCV.")
        self._options = options
        self.sha256 = _file_hash(str(path))

    def enlargement(self, height: int, width: int) -> float:
        """Factor at which a frame of that size is searched, in (0, 4]."""
        wanted = self._options.search_short_side / min(height, width)
        return min(wanted, 4.0) if wanted > 1 else self._options.scale

    def detect(self, frame: Frames) -> list[Box]:
        """Boxes of a frame [H, W, 3] in its own pixels, sorted: the cascade's threads leave no fixed order."""
        import cv2

        factor = self.enlargement(*frame.shape[:2])
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if factor != 1:
            how = cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
            grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=how)
        least = max(_WINDOW, round(self._options.min_px * factor))
        # Enlarged frames are smooth, so a coarser pyramid finds as many faces there in half the time.
        step = 1.2 if factor >= 2 else 1.1
        found = self._cascade.detectMultiScale(grey, step, self._options.min_neighbors, minSize=(least, least))
        return sorted(_outer_box(*(float(value) / factor for value in box)) for box in found)


def _outer_box(x: float, y: float, width: float, height: float) -> Box:
    left, top = math.floor(x), math.floor(y)
    return left, top, math.ceil(x + width) - left, math.ceil(y + height) - top


@lru_cache(maxsize=8)
def _file_hash(path: str) -> str:
    return sha256_file(path)


def redact_faces(
    frames: Frames, options: RedactionOptions | None = None, *, detector: FaceDetector | None = None
) -> tuple[Frames, RedactionReport]:
    """Cover every face the detector finds in frames [T, H, W, 3], then look again.

    Key frames are searched and each box is covered on the frames around it, with the way to the next box of the same
    face. Then every covered frame, and one uncovered frame between each two key frames, is searched again; what turns
    up is filled, up to `max_rounds`.
    Without a detection the very same array comes back; otherwise a copy, in which only covered rectangles differ.

    Raises:
        BadInput: not uint8 [T, H, W, 3] with at least one frame.
        CheckUnavailable: there is no cascade to search with.
    """
    started = time.perf_counter()
    require_frames(frames)
    options = options or RedactionOptions()
    detector = detector or HaarFaceDetector(options)
    num_frames, height, width = frames.shape[:3]
    keys = sorted({*range(0, num_frames, options.stride), num_frames - 1})
    found = _search(frames, keys, detector)
    pending = set(range(options.stride // 2, num_frames, options.stride)) - set(keys)
    regions: list[Region] = []
    covered: set[int] = set()
    num_searches, num_rounds, num_detected, result = len(keys), 0, 0, frames
    while found or pending:
        if found:
            if num_rounds == options.max_rounds:
                break
            result = frames.copy() if result is frames else result
            fresh = _regions(found, frames.shape, options, linked=num_rounds == 0)
            for region in fresh:
                _cover(result, region, options.method if num_rounds == 0 else "fill")
            num_detected += sum(len(boxes) for boxes in found.values())
            regions += fresh
            changed = {t for region in fresh for t in range(region.first_frame, region.last_frame + 1)}
            covered |= changed
            pending |= changed
            num_rounds += 1
        found = _search(result, sorted(pending), detector)
        num_searches += len(pending)
        pending = set()
    return result, RedactionReport(
        num_frames=num_frames,
        num_detected=num_detected,
        num_frames_with_faces=len(covered),
        regions=tuple(regions),
        residual=sum(len(boxes) for boxes in found.values()),
        residual_frames=tuple(found),
        num_rounds=num_rounds,
        num_searches=num_searches,
        parameters=options,
        enlargement=detector.enlargement(height, width),
        detector=detector.name,
        detector_sha256=detector.sha256,
        duration_s=time.perf_counter() - started,
    )


def _search(frames: Frames, indices: Iterable[int], detector: FaceDetector) -> dict[int, list[Box]]:
    searched = ((index, detector.detect(frames[index])) for index in indices)
    return {index: boxes for index, boxes in searched if boxes}


def _regions(
    found: dict[int, list[Box]], shape: tuple[int, ...], options: RedactionOptions, *, linked: bool
) -> list[Region]:
    reach = options.hold * options.stride
    spans = [(frame - reach, frame + reach, box) for frame, boxes in found.items() for box in boxes]
    if linked:
        spans += _links(found, 2 * reach)
    return [_region(first, last, box, shape, options.pad) for first, last, box in spans]


def _links(found: dict[int, list[Box]], farthest: int) -> list[tuple[int, int, Box]]:
    """Spans from each detection to the next one of what may be the same face, with the box around both.

    A face that moves may be on neither of its two boxes in between, and the cascade may lose it there.
    """
    links = []
    for frame, boxes in found.items():
        for box in boxes:
            later = (
                (other, match)
                for other in sorted(found)
                if frame < other <= frame + farthest
                for match in found[other]
                if _may_be_same(box, match)
            )
            if (link := next(later, None)) and link[1] != box:
                links.append((frame, link[0], _around(box, link[1])))
    return links


def _may_be_same(one: Box, other: Box) -> bool:
    larger, smaller = max(one[2], other[2]), min(one[2], other[2])
    apart = max(abs((one[axis] + one[axis + 2] / 2) - (other[axis] + other[axis + 2] / 2)) for axis in (0, 1))
    return larger <= 2 * smaller and apart <= 2 * larger


def _around(one: Box, other: Box) -> Box:
    left, top = min(one[0], other[0]), min(one[1], other[1])
    right, bottom = max(one[0] + one[2], other[0] + other[2]), max(one[1] + one[3], other[1] + other[3])
    return left, top, right - left, bottom - top


def _region(first: int, last: int, box: Box, shape: tuple[int, ...], pad: float) -> Region:
    num_frames, height, width = shape[:3]
    x, y, box_width, box_height = box
    pad_x, pad_y = math.ceil(pad * box_width), math.ceil(pad * box_height)
    left, top = max(0, x - pad_x), max(0, y - pad_y)
    return Region(
        first_frame=max(0, first),
        last_frame=min(num_frames - 1, last),
        x=left,
        y=top,
        width=min(width, x + box_width + pad_x) - left,
        height=min(height, y + box_height + pad_y) - top,
    )


def _cover(frames: Frames, region: Region, method: Literal["pixelate", "fill"]) -> None:
    rows = slice(region.y, region.y + region.height)
    columns = slice(region.x, region.x + region.width)
    patch = frames[region.first_frame : region.last_frame + 1, rows, columns]  # a view: writing covers the clip
    # At most four cells a side, each at least eight pixels: small faces become one flat colour.
    most = 1 if method == "fill" else 4
    y_edges = _edges(region.height, most)
    x_edges = _edges(region.width, most)
    for top, bottom in pairwise(y_edges):
        for left, right in pairwise(x_edges):
            cell = patch[:, top:bottom, left:right]
            cell[...] = cell.mean(axis=(1, 2), keepdims=True).round().astype(np.uint8)


def _edges(length: int, most: int) -> list[int]:
    cells = min(most, max(1, length // 8))
    return [round(length * cell / cells) for cell in range(cells + 1)]


def redaction_verdict(report: RedactionReport, *, stage: Stage = "video") -> Verdict:
    """`face_residual` if a face can still be found, `face_redacted` if faces were covered, otherwise a pass."""
    category = "face_residual" if report.residual else "face_redacted" if report.regions else None
    return Verdict(
        stage=stage,
        check=f"{stage}.redaction",
        status="flag" if category else "pass",
        category=category,
        backend=_BACKEND,
        model=report.detector,
        revision=report.detector_sha256[:12],
        evidence=report.model_dump(mode="json"),
        duration_s=report.duration_s,
    )


def check_redaction(
    frames: Frames,
    options: RedactionOptions | None = None,
    *,
    stage: Stage = "video",
    detector: FaceDetector | None = None,
) -> tuple[Frames, Verdict]:
    """Redact frames and judge the result; on `unavailable` or `error` the frames come back untouched.

    The full `RedactionReport` is the verdict's evidence.
    """
    redacted = frames

    def call() -> Verdict:
        nonlocal redacted
        result, report = redact_faces(frames, options, detector=detector)
        redacted = result
        return redaction_verdict(report, stage=stage)

    verdict = run_check(stage, f"{stage}.redaction", call, backend=_BACKEND)
    return redacted, verdict
