"""Redaction without a model's weights: find faces and number plates, cover them, look again.

Legend: T frames, H W height and width in pixels; frames are uint8 RGB [T, H, W, 3]. Boxes are whole pixels x, y,
width, height. The detectors of `tasks.detectors` know frontal faces and some kinds of plates, so a pass means "they
find nothing", not "nobody can be recognised".
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cosmos_core.hashing import sha256_json
from tasks.detectors import Detector, FaceSearch, HaarFaceDetector, Kind, PlateDetector, PlateSearch, around
from tasks.frame_sanity import Frames, SanityOptions, check_frames, content_unavailable, require_frames
from tasks.tracking import Finding, Track, add_to_tracks, may_be_same, run_on
from tasks.verdicts import Stage, Verdict, run_check

__all__ = [
    "DetectorUsed",
    "FoundBox",
    "RedactionOptions",
    "RedactionReport",
    "Region",
    "SanityOptions",
    "check_frames",
    "check_redaction",
    "content_unavailable",
    "default_detectors",
    "redact_frames",
    "redaction_verdict",
]

_BACKEND = "opencv-haar"
_BATCH = 16
"""Frames that a detector gets at once: at 1280x704 they take 43 MB."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RedactionOptions(_Part):
    """What is found, how it is tracked, how it is covered."""

    faces: FaceSearch | None = FaceSearch()
    """None: faces are not looked for."""
    plates: PlateSearch | None = PlateSearch()
    """None: number plates are not looked for."""
    stride: int = Field(default=4, ge=1)
    """Every stride-th frame, and the last, is a key frame that is searched."""
    hold: int = Field(default=1, ge=1)
    """What is found on a key frame is covered for this many strides before and after it."""
    pad: float = Field(default=0.25, ge=0, le=2)
    """Widening of a box on each side, as a share of its size."""
    method: Literal["pixelate", "fill"] = "pixelate"
    """Faces: a mosaic of at most four cells a side, or one flat colour. Plates are always filled: a mosaic that moves
    over letters can give them away."""
    max_rounds: int = Field(default=3, ge=1)
    """Rounds of covering and looking again; from the second on boxes are filled."""

    @model_validator(mode="after")
    def _looks_for_something(self) -> RedactionOptions:
        if self.faces is None and self.plates is None:
            raise ValueError("redaction looks for neither faces nor plates; leave the check out of the policy instead")
        return self


class Region(_Part):
    """One covered rectangle and the frames on which it is covered, first and last included."""

    kind: Kind
    first_frame: int
    last_frame: int
    x: int
    y: int
    width: int
    height: int


class FoundBox(_Part):
    """Something found on one frame."""

    kind: Kind
    frame: int
    x: int
    y: int
    width: int
    height: int


class DetectorUsed(_Part):
    """What looked."""

    kind: Kind
    name: str
    sha256: str
    enlargement: float
    """Factor between the clip's pixels and the searched ones."""


class RedactionReport(_Part):
    """What was found, what was covered, and what a second look still found."""

    num_frames: int
    num_detected: dict[Kind, int]
    """Detections on searched frames that led to a covered region; one thing counts once a searched frame."""
    num_tracks: dict[Kind, int]
    """Different things among them: detections that one thing on its way explains count once."""
    num_frames_covered: int
    """Frames that carry a covered region. All others are unchanged to the bit."""
    regions: tuple[Region, ...]
    """Padded rectangles: one a detection, and one over the way between two detections of a moving thing."""
    residual: int
    """Detections that remain after the last round."""
    residual_boxes: tuple[FoundBox, ...]
    num_rounds: int
    """Rounds of covering; 0 if nothing was found."""
    num_searches: int
    """Frames searched, verification included."""
    parameters: RedactionOptions
    detectors: tuple[DetectorUsed, ...]
    duration_s: float


def default_detectors(options: RedactionOptions, *, face_detector: Detector | None = None) -> list[Detector]:
    """The embedded detectors of what the options ask for.

    Args:
        face_detector: takes the place of the face cascade.

    Raises:
        CheckUnavailable: OpenCV or a cascade is missing.
    """
    detectors: list[Detector] = []
    if options.faces:
        detectors.append(face_detector or HaarFaceDetector(options.faces))
    if options.plates:
        detectors.append(PlateDetector(options.plates))
    return detectors


def redact_frames(
    frames: Frames,
    options: RedactionOptions | None = None,
    *,
    face_detector: Detector | None = None,
    detectors: Sequence[Detector] | None = None,
) -> tuple[Frames, RedactionReport]:
    """Cover everything that the detectors find in frames [T, H, W, 3], then look again.

    Key frames are searched and each box is covered on the frames around it, with the way to the next box of the same
    thing, and with the way on where a moving thing is lost. Then every covered frame, and one uncovered frame between
    each two key frames, is searched again; what turns up is filled, up to `max_rounds`.
    Without a detection the very same array comes back; otherwise a copy, in which only covered rectangles differ.

    Args:
        face_detector: takes the place of the face cascade.
        detectors: take the place of everything that looks.

    Raises:
        BadInput: not uint8 [T, H, W, 3] with at least one frame.
        CheckUnavailable: there is nothing to search with.
    """
    started = time.perf_counter()
    require_frames(frames)
    options = options or RedactionOptions()
    if detectors is None:
        detectors = default_detectors(options, face_detector=face_detector)
    num_frames, height, width = frames.shape[:3]
    keys = sorted({*range(0, num_frames, options.stride), num_frames - 1})
    found = _search(frames, keys, detectors)
    pending = set(range(options.stride // 2, num_frames, options.stride)) - set(keys)
    regions: list[Region] = []
    tracks: list[Track] = []
    covered: set[int] = set()
    num_searches, num_rounds, result = len(keys), 0, frames
    num_detected: dict[Kind, int] = {detector.kind: 0 for detector in detectors}
    while found or pending:
        if found:
            if num_rounds == options.max_rounds:
                break
            result = frames.copy() if result is frames else result
            add_to_tracks(tracks, found, reach=2 * options.hold * options.stride)
            fresh = _regions(found, tracks, frames.shape, options, linked=num_rounds == 0)
            for region in fresh:
                flat = num_rounds > 0 or region.kind == "plate"
                _cover(result, region, "fill" if flat else options.method)
            for kind, _ in (finding for findings in found.values() for finding in findings):
                num_detected[kind] += 1
            regions += fresh
            changed = {t for region in fresh for t in range(region.first_frame, region.last_frame + 1)}
            covered |= changed
            pending |= changed
            num_rounds += 1
        found = _search(result, sorted(pending), detectors)
        num_searches += len(pending)
        pending = set()
    residual = tuple(_found_box(index, finding) for index, findings in found.items() for finding in findings)
    return result, RedactionReport(
        num_frames=num_frames,
        num_detected=num_detected,
        num_tracks={kind: sum(track.kind == kind for track in tracks) for kind in num_detected},
        num_frames_covered=len(covered),
        regions=tuple(regions),
        residual=len(residual),
        residual_boxes=residual,
        num_rounds=num_rounds,
        num_searches=num_searches,
        parameters=options,
        detectors=tuple(
            DetectorUsed(
                kind=detector.kind,
                name=detector.name,
                sha256=detector.sha256,
                enlargement=detector.enlargement(height, width),
            )
            for detector in detectors
        ),
        duration_s=time.perf_counter() - started,
    )


def _search(frames: Frames, indices: Iterable[int], detectors: Sequence[Detector]) -> dict[int, list[Finding]]:
    chosen, found = list(indices), dict[int, list[Finding]]()
    for start in range(0, len(chosen), _BATCH):
        batch = chosen[start : start + _BATCH]
        for detector in detectors:
            answers = detector.detect_many(frames[batch])
            for index, boxes in zip(batch, answers, strict=True):
                found.setdefault(index, []).extend((detector.kind, box) for box in boxes)
    return {index: findings for index, findings in found.items() if findings}


def _found_box(frame: int, finding: Finding) -> FoundBox:
    kind, (x, y, width, height) = finding
    return FoundBox(kind=kind, frame=frame, x=x, y=y, width=width, height=height)


def _regions(
    found: dict[int, list[Finding]],
    tracks: Sequence[Track],
    shape: tuple[int, ...],
    options: RedactionOptions,
    *,
    linked: bool,
) -> list[Region]:
    reach = options.hold * options.stride
    spans = [(frame - reach, frame + reach, finding) for frame, findings in found.items() for finding in findings]
    if linked:
        spans += _links(found, 2 * reach)
        spans += [span for track in tracks for span in run_on(track, reach)]
    regions = (_region(first, last, finding, shape, options.pad) for first, last, finding in spans)
    return [region for region in regions if region is not None]


def _links(found: dict[int, list[Finding]], farthest: int) -> list[tuple[int, int, Finding]]:
    """Spans from each detection to the next one of what may be the same thing, with the box around both.

    A face that moves may be on neither of its two boxes in between, and the cascade may lose it there. One detection
    may continue several others: what is covered twice is covered well.
    """
    links = []
    for frame, findings in found.items():
        for kind, box in findings:
            later = (
                (other, match)
                for other in sorted(found)
                if frame < other <= frame + farthest
                for what, match in found[other]
                if what == kind and may_be_same(box, match)
            )
            if (link := next(later, None)) and link[1] != box:
                links.append((frame, link[0], (kind, around(box, link[1]))))
    return links


def _region(first: int, last: int, finding: Finding, shape: tuple[int, ...], pad: float) -> Region | None:
    """The padded region of a finding, or None where it lies wholly outside of the picture."""
    num_frames, height, width = shape[:3]
    kind, (x, y, box_width, box_height) = finding
    pad_x, pad_y = math.ceil(pad * box_width), math.ceil(pad * box_height)
    left, top = max(0, x - pad_x), max(0, y - pad_y)
    right, bottom = min(width, x + box_width + pad_x), min(height, y + box_height + pad_y)
    first, last = max(0, first), min(num_frames - 1, last)
    if right <= left or bottom <= top or last < first:
        return None
    return Region(kind=kind, first_frame=first, last_frame=last, x=left, y=top, width=right - left, height=bottom - top)


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
    """`face_residual` and `plate_residual` for what can still be found, `face_redacted` and `plate_redacted` for what
    was covered, otherwise a pass.
    """
    kinds: tuple[Kind, ...] = ("face", "plate")
    remaining = {box.kind for box in report.residual_boxes}
    covered = {region.kind for region in report.regions}
    categories = [f"{kind}_residual" for kind in kinds if kind in remaining]
    categories += [f"{kind}_redacted" for kind in kinds if kind in covered]
    return Verdict(
        stage=stage,
        check=f"{stage}.redaction",
        status="flag" if categories else "pass",
        category=categories[0] if categories else None,
        other_categories=tuple(categories[1:]),
        backend=_BACKEND,
        model=", ".join(detector.name for detector in report.detectors),
        revision=sha256_json([detector.sha256 for detector in report.detectors])[:12],
        evidence=report.model_dump(mode="json"),
        duration_s=report.duration_s,
    )


def check_redaction(
    frames: Frames,
    options: RedactionOptions | None = None,
    *,
    stage: Stage = "video",
    face_detector: Detector | None = None,
    detectors: Sequence[Detector] | None = None,
) -> tuple[Frames, Verdict]:
    """Redact frames and judge the result; on `unavailable` or `error` the frames come back untouched.

    The full `RedactionReport` is the verdict's evidence. Arguments as in `redact_frames`.
    """
    redacted = frames

    def call() -> Verdict:
        nonlocal redacted
        result, report = redact_frames(frames, options, face_detector=face_detector, detectors=detectors)
        redacted = result
        return redaction_verdict(report, stage=stage)

    verdict = run_check(stage, f"{stage}.redaction", call, backend=_BACKEND)
    return redacted, verdict
