"""Which detections on different frames may be one thing on its way.

Boxes are whole pixels x, y, width, height; frames are counted from 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.detectors import Box, Kind

__all__ = ["Finding", "Track", "add_to_tracks", "may_be_same", "run_on"]

Finding = tuple[Kind, Box]


@dataclass(slots=True)
class Track:
    """One thing, by the frames on which it was found."""

    kind: Kind
    boxes: dict[int, Box] = field(default_factory=dict)


def may_be_same(one: Box, other: Box) -> bool:
    """Whether two boxes of nearby frames are of similar size and not further apart than twice that size."""
    larger, smaller = max(one[2], other[2]), min(one[2], other[2])
    return larger <= 2 * smaller and _distance(one, other) <= 2 * larger


def add_to_tracks(tracks: list[Track], found: Mapping[int, Sequence[Finding]], *, reach: int) -> None:
    """Give each finding to the nearest track that was seen within `reach` frames, or to a new one.

    A track takes at most one finding a frame.
    """
    for frame in sorted(found):
        for kind, box in found[frame]:
            near = [
                (_distance(seen, box), index)
                for index, track in enumerate(tracks)
                if track.kind == kind and frame not in track.boxes
                for when, seen in track.boxes.items()
                if abs(when - frame) <= reach and may_be_same(seen, box)
            ]
            if near:
                tracks[min(near)[1]].boxes[frame] = box
            else:
                tracks.append(Track(kind, {frame: box}))


def run_on(track: Track, reach: int) -> list[tuple[int, int, Finding]]:
    """Where a moving thing may be before its first and after its last box: the way at its pace, for `reach` frames.

    Returns:
        Spans of first frame, last frame and the box around the whole way.
    """
    frames = sorted(track.boxes)
    if len(frames) < 2:
        return []
    spans = []
    for end, next_to_it, sign in ((frames[-1], frames[-2], 1), (frames[0], frames[1], -1)):
        box, before = track.boxes[end], track.boxes[next_to_it]
        steps = reach / abs(end - next_to_it)
        x, y = (box[axis] + round(steps * (_centre(box, axis) - _centre(before, axis))) for axis in (0, 1))
        if (x, y) != box[:2]:
            left, top = min(x, box[0]), min(y, box[1])
            whole = (left, top, max(x, box[0]) + box[2] - left, max(y, box[1]) + box[3] - top)
            spans.append((min(end, end + sign * reach), max(end, end + sign * reach), (track.kind, whole)))
    return spans


def _centre(box: Box, axis: int) -> float:
    return box[axis] + box[axis + 2] / 2


def _distance(one: Box, other: Box) -> float:
    return max(abs(_centre(one, axis) - _centre(other, axis)) for axis in (0, 1))
