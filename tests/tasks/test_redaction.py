"""Redaction on a real face at several sizes, and the sanity check on clips that are none."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from cosmos_core.errors import BadInput
from tasks.detectors import FaceSearch, FrameByFrame
from tasks.redaction import (
    RedactionOptions,
    SanityOptions,
    check_frames,
    check_redaction,
    content_unavailable,
    redact_frames,
)

cv2 = pytest.importorskip("cv2")
data = pytest.importorskip("skimage.data")

# The part of the 200-pixel head crop that is face: eyes, nose and mouth.
FACE = (0.30, 0.75, 0.28, 0.73)


def head_of(size):
    return cv2.resize(data.astronaut()[20:220, 130:330], (size, size), interpolation=cv2.INTER_AREA)


def street(num_frames, height=112, width=192):
    """A smooth picture with sensor noise, different on every frame."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(70, 160, height)[:, None, None] + np.linspace(0, 30, width)[None, :, None]
    noise = rng.normal(0, 3, (num_frames, height, width, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def with_face(size, num_frames=9, *, frames=None, step=2, on=None):
    """Frames with a head that moves right, and the slices of its face by frame."""
    clip = street(num_frames) if frames is None else frames
    head, faces = head_of(size), {}
    for t in range(num_frames) if on is None else on:
        y, x = (clip.shape[1] - size) // 2, 10 + step * t
        clip[t, y : y + size, x : x + size] = head
        top, bottom, left, right = (round(edge * size) for edge in FACE)
        faces[t] = (t, slice(y + top, y + bottom), slice(x + left, x + right))
    return clip, faces


def changed_share(before, after, place):
    return float(np.any(before[place] != after[place], axis=-1).mean())


@pytest.mark.parametrize("size", [32, 40, 64, 96])
def test_a_moving_face_is_covered_on_every_frame(size):
    frames, faces = with_face(size)
    original = frames.copy()
    redacted, report = redact_frames(frames)
    assert np.array_equal(frames, original)
    assert report.num_detected["face"] >= 2
    assert report.residual == 0
    assert report.num_frames_covered == len(frames)
    assert all(changed_share(original, redacted, place) > 0.9 for place in faces.values())


def test_nothing_outside_the_reported_regions_changes():
    frames, _ = with_face(48, num_frames=17, on=range(5))
    redacted, report = redact_frames(frames)
    allowed = np.zeros(frames.shape[:3], dtype=bool)
    for region in report.regions:
        rows, columns = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
        allowed[region.first_frame : region.last_frame + 1, rows, columns] = True
    assert np.array_equal(redacted[~allowed], frames[~allowed])
    untouched = sorted(set(range(17)) - {t for r in report.regions for t in range(r.first_frame, r.last_frame + 1)})
    assert untouched
    assert report.num_frames_covered == 17 - len(untouched)


def test_frames_without_a_face_come_back_as_the_same_array():
    frames = street(9)
    redacted, report = redact_frames(frames)
    assert redacted is frames
    assert (report.num_detected, report.num_rounds, report.residual, report.regions) == (
        {"face": 0, "plate": 0},
        0,
        0,
        (),
    )
    assert report.num_searches == 5  # frames 0 4 8, then 2 6


def test_a_moving_face_lost_on_a_key_frame_is_covered_along_its_way():
    class Flickering(FrameByFrame):
        kind, name, sha256 = "face", "flickering", "0" * 64

        def enlargement(self, height, width):
            return 1.0

        def detect(self, frame):
            boxes = {0: (40, 40, 24, 24), 8: (76, 40, 24, 24)}
            box = boxes.get(int(frame[0, 0, 0]))
            covered = box and len(np.unique(frame[45:50, box[0] + 5 : box[0] + 10])) <= 3
            return [box] if box and not covered else []

    frames = street(9)
    frames[:, 0, 0, 0] = np.arange(9)  # tells the fake which frame it sees
    redacted, report = redact_frames(frames, RedactionOptions(method="fill"), detectors=[Flickering()])
    assert (report.num_detected, report.num_tracks, report.num_frames_covered, report.residual) == (
        {"face": 2},
        {"face": 1},
        9,
        0,
    )
    assert changed_share(frames, redacted, (4, slice(40, 64), slice(40, 100))) > 0.9


def test_a_face_between_key_frames_is_found_by_the_second_look():
    frames, faces = with_face(64, on=[2])
    redacted, report = redact_frames(frames)
    assert report.num_detected["face"] >= 1
    assert changed_share(frames, redacted, faces[2]) > 0.9
    assert report.residual == 0


class Stubborn(FrameByFrame):
    """Finds the same face whatever is done to it."""

    kind, name, sha256 = "face", "stubborn", "0" * 64

    def enlargement(self, height, width):
        return 1.0

    def detect(self, frame):
        return [(40, 40, 24, 24)]


def test_a_face_that_remains_is_a_residual():
    frames = street(5)
    _, report = redact_frames(frames, RedactionOptions(max_rounds=2), detectors=[Stubborn()])
    assert (report.num_rounds, report.residual) == (2, 5)
    assert [(box.kind, box.frame, box.x) for box in report.residual_boxes] == [("face", t, 40) for t in range(5)]
    _, verdict = check_redaction(frames, detectors=[Stubborn()])
    assert (verdict.status, verdict.category, verdict.evidence["residual"]) == ("flag", "face_residual", 5)


def test_a_mosaic_keeps_at_most_four_cells_a_side_and_fill_one_colour():
    frames, _ = with_face(96, num_frames=1)
    for method, most in (("pixelate", 16), ("fill", 1)):
        redacted, report = redact_frames(frames, RedactionOptions(method=method))
        region = report.regions[0]
        patch = redacted[0, region.y : region.y + region.height, region.x : region.x + region.width]
        assert 1 <= len(np.unique(patch.reshape(-1, 3), axis=0)) <= most


def test_equal_frames_give_equal_results():
    frames, _ = with_face(40)
    first, report = redact_frames(frames)
    second, again = redact_frames(frames)
    assert np.array_equal(first, second)
    assert report.model_copy(update={"duration_s": 0.0}) == again.model_copy(update={"duration_s": 0.0})


def test_small_frames_are_enlarged_because_it_finds_smaller_faces():
    frames, _ = with_face(28, num_frames=1)
    plain = RedactionOptions(faces=FaceSearch(search_short_side=64))
    assert redact_frames(frames)[1].detectors[0].enlargement == 4.0
    assert redact_frames(frames)[1].num_detected["face"] >= 1
    assert redact_frames(frames, plain)[1].num_detected["face"] == 0


def test_a_read_only_memory_map_is_fine(tmp_path):
    frames, _ = with_face(48, num_frames=3)
    np.save(tmp_path / "frames.npy", frames)
    mapped = np.load(tmp_path / "frames.npy", mmap_mode="r")
    redacted, verdict = check_redaction(mapped)
    assert verdict.category == "face_redacted"
    assert np.array_equal(redacted, redact_frames(frames)[0])
    assert check_frames(mapped).status == "pass"


def test_the_verdict_carries_the_whole_report():
    frames, _ = with_face(48, num_frames=5)
    redacted, verdict = check_redaction(frames)
    assert (verdict.name, verdict.status, verdict.category) == ("video/video.redaction", "flag", "face_redacted")
    assert verdict.model.startswith("haarcascade_frontalface_alt2.xml, haarcascade_russian_plate_number.xml + ")
    assert [len(used["sha256"]) for used in verdict.evidence["detectors"]] == [64, 64]
    assert verdict.evidence["parameters"]["stride"] == 4
    assert not np.array_equal(redacted, frames)
    _, clean = check_redaction(street(2), stage="input")
    assert (clean.name, clean.status) == ("input/input.redaction", "pass")


@pytest.mark.parametrize(
    ("break_it", "clue"),
    [
        (lambda monkeypatch: monkeypatch.setitem(sys.modules, "cv2", None), "not installed"),
        (lambda monkeypatch: monkeypatch.delattr(cv2, "CascadeClassifier"), "has no cascade"),
        (lambda monkeypatch: monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/"), "has no cascade"),
    ],
    ids=["no OpenCV", "OpenCV 5", "no cascade file"],
)
def test_without_a_cascade_the_check_is_unavailable(monkeypatch, break_it, clue):
    break_it(monkeypatch)
    frames = street(2)
    redacted, verdict = check_redaction(frames)
    assert redacted is frames
    assert verdict.status == "unavailable"
    assert clue in verdict.evidence["reason"]


def test_a_detector_that_fails_on_every_frame_is_an_error():
    class Broken(Stubborn):
        def detect(self, frame):
            raise RuntimeError("no frame could be read")

    frames = street(3)
    redacted, verdict = check_redaction(frames, detectors=[Broken()])
    assert redacted is frames
    assert (verdict.status, verdict.evidence["exception"]) == ("error", "RuntimeError")


MALFORMED = [
    np.zeros((0, 8, 8, 3), np.uint8),
    np.zeros((2, 8, 8, 3), np.float32),
    np.zeros((8, 8, 3), np.uint8),
    np.zeros((2, 8, 8, 4), np.uint8),
    None,
    [],
]


@pytest.mark.parametrize("frames", MALFORMED, ids=lambda frames: str(getattr(frames, "shape", frames)))
def test_malformed_frames_are_an_error_everywhere(frames):
    assert check_frames(frames).status == "error"
    assert check_redaction(frames)[1].status == "error"
    with pytest.raises(BadInput, match="malformed"):
        redact_frames(frames)


def test_a_moving_clip_is_sane_and_so_is_one_input_picture():
    assert check_frames(street(4)).status == "pass"
    assert check_frames(street(1), stage="input").status == "pass"


@pytest.mark.parametrize(
    ("frames", "categories"),
    [
        (np.full((4, 8, 8, 3), 12, np.uint8), ("black", "uniform", "frozen")),
        (np.full((4, 8, 8, 3), 128, np.uint8), ("uniform", "frozen")),
        (np.repeat(street(1), 5, axis=0), ("frozen",)),
        (street(1), ("frozen",)),
        (np.concatenate([street(1), np.zeros((3, 112, 192, 3), np.uint8)]), ("black", "uniform")),
    ],
    ids=["black", "grey", "still", "one frame", "mostly black"],
)
def test_a_clip_that_shows_nothing_is_flagged(frames, categories):
    assert check_frames(frames).categories == categories


def test_a_dark_night_and_a_short_fade_are_no_black_clip():
    night = np.clip(street(4).astype(int) - 120, 0, 255).astype(np.uint8)
    assert check_frames(night).status == "pass"
    fade = np.concatenate([np.zeros((1, 112, 192, 3), np.uint8), street(3)])
    assert check_frames(fade).status == "pass"
    assert check_frames(fade, SanityOptions(max_share=0.2)).category == "black"


def test_what_a_clip_shows_is_unavailable_and_never_a_pass():
    verdict = content_unavailable()
    assert (verdict.name, verdict.status) == ("video/video.content", "unavailable")


def test_the_guardrail_modules_import_without_opencv():
    modules = "tasks.prompts, tasks.lexicon, tasks.policy, tasks.redaction, tasks.verdicts"
    heavy = "{'cv2', 'torch', 'prefect', 'transformers'}"
    code = f"import sys, {modules}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
