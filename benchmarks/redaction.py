"""What redaction finds, covers and leaves: a real face and drawn plates of several sizes, and pictures with neither.

    python -m benchmarks.redaction [faces] [plates] [false]

Prints the tables of docs/guardrails.md as Markdown. Needs scikit-image, whose `astronaut` is the face.
"""

from __future__ import annotations

import sys
import time

import cv2
import numpy as np
from skimage import data

from benchmarks.plates import PLATE_TEXTS, PlateStyle, put_plate
from tasks.redaction import RedactionOptions, redact_frames

_FACE = (0.30, 0.75, 0.28, 0.73)  # eyes, nose and mouth as shares of the head's crop
_FACE_SHARE = 0.45  # side of that part
_NOISE = 3.0
_PHOTOGRAPHS = ("coffee", "rocket")
_WITHOUT = ("camera", "chelsea", "coffee", "rocket", "coins", "page", "text", "brick", "grass", "gravel", "clock")
"""`camera` and `coins` show heads; `page` and `text` show writing."""


def _photograph(name: str, width: int, height: int) -> np.ndarray:
    picture = getattr(data, name)()
    picture = picture if picture.ndim == 3 else np.stack([picture] * 3, axis=-1)
    return cv2.resize(picture[..., :3], (width, height), interpolation=cv2.INTER_AREA)


def _noisy(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(picture + rng.normal(0, _NOISE, picture.shape), 0, 255).astype(np.uint8)


def _with_head(picture: np.ndarray, size: int, x: int, y: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    head = cv2.resize(data.astronaut()[20:220, 130:330], (size, size), interpolation=cv2.INTER_AREA)
    result = picture.copy()
    result[y : y + size, x : x + size] = head
    top, bottom, left, right = (round(edge * size) for edge in _FACE)
    return result, (slice(y + top, y + bottom), slice(x + left, x + right))


def _covered(before: np.ndarray, after: np.ndarray, place: tuple[slice, slice]) -> bool:
    return float(np.any(before[place] != after[place], axis=-1).mean()) > 0.9


def measure_faces() -> None:
    """Single frames at eight places, and clips across which a face moves, on two photographs."""
    print("| clip | face side, px | found | covered | residual |\n|---|---|---|---|---|")
    for width, height, num_frames, sides in (
        (192, 112, 61, (8, 10, 12, 14, 16, 20, 24, 32, 48)),
        (1280, 704, 17, (16, 18, 20, 22, 24, 32, 48, 80, 160)),
    ):
        for side in sides:
            size, rng = round(side / _FACE_SHARE), np.random.default_rng(side)
            found = tried = covered = moving = residual = 0
            for name in _PHOTOGRAPHS:
                picture = _photograph(name, width, height)
                for _ in range(8):
                    x, y = int(rng.integers(0, width - size)), int(rng.integers(0, height - size))
                    frame, place = _with_head(picture, size, x, y)
                    frames = _noisy(frame, rng)[None]
                    after, _ = redact_frames(frames)
                    found += _covered(frames[0], after[0], place)
                    tried += 1
                clip, places = [], []
                for t in range(num_frames):
                    x = round(t * min(width / 100, (width - size) / num_frames))
                    frame, place = _with_head(picture, size, x, (height - size) // 2)
                    clip.append(_noisy(frame, rng))
                    places.append(place)
                frames = np.stack(clip)
                after, report = redact_frames(frames)
                residual += report.residual
                covered += sum(_covered(frames[t], after[t], place) for t, place in enumerate(places))
                moving += num_frames
            print(
                f"| {width}x{height}, {num_frames} frames | {side} | {found} of {tried} "
                f"| {covered} of {moving} | {residual} |",
                flush=True,
            )


def measure_plates() -> None:
    """Plates of two styles at several sizes and angles; covered means over 90 % of the number."""
    heights = (8, 10, 12, 14, 16, 20, 24, 32, 48, 64)
    print("| style | roll, yaw | " + " | ".join(f"{h} px" for h in heights) + " | residual |")
    print("|---|---|" + "---|" * (len(heights) + 1))
    options = RedactionOptions(faces=None)
    for style in ("eu", "us"):
        for roll, yaw in ((0, 0), (5, 0), (10, 0), (20, 0), (0, 30), (0, 50)):
            cells, residual, tried = [], 0, 0
            for height in heights:
                covered, tried, left = _try_plates(style, height, roll, yaw, options)
                cells.append(str(covered))
                residual += left
            print(f"| {style}, of {tried} | {roll}°, {yaw}° | {' | '.join(cells)} | {residual} |", flush=True)


def _try_plates(style: PlateStyle, height: int, roll: int, yaw: int, options: RedactionOptions) -> tuple[int, int, int]:
    rng, covered, tried, residual = np.random.default_rng(height), 0, 0, 0
    for name in _PHOTOGRAPHS:
        picture = _photograph(name, 1280, 704)
        for text in PLATE_TEXTS[style]:
            for centre in ((400, 420), (820, 300)):
                frame, number = put_plate(
                    picture, style, text, centre=centre, height=height, roll_deg=roll, yaw_deg=yaw
                )
                frame = _noisy(frame, rng)
                after, report = redact_frames(frame[None], options)
                covered += float(np.any(after[0] != frame, axis=-1)[number].mean()) > 0.9
                residual += report.residual
                tried += 1
    return covered, tried, residual


def measure_false() -> None:
    """Boxes on pictures that show neither faces nor plates, and the time of a search."""
    print("| picture | faces | plates | seconds |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    for name in _WITHOUT:
        frames = _noisy(_photograph(name, 1280, 704), rng)[None]
        started = time.perf_counter()
        _, report = redact_frames(frames)
        seconds = time.perf_counter() - started
        found = report.num_tracks
        print(f"| {name} | {found['face']} | {found['plate']} | {seconds / report.num_searches:.2f} |", flush=True)


if __name__ == "__main__":
    parts = {"faces": measure_faces, "plates": measure_plates, "false": measure_false}
    for part in sys.argv[1:] or list(parts):
        parts[part]()
