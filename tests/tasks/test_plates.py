"""Number plates: found and filled on drawn ones, left alone what only looks regular, followed where they move."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.plates import put_plate
from tasks.detectors import PlateDetector, PlateSearch, around
from tasks.redaction import RedactionOptions, check_redaction, redact_frames
from tasks.tracking import Track, add_to_tracks, may_be_same, run_on

cv2 = pytest.importorskip("cv2")


def street(height=360, width=640, seed=0):
    ramp = np.linspace(70, 160, height)[:, None, None] + np.linspace(0, 30, width)[None, :, None]
    noise = np.random.default_rng(seed).normal(0, 3, (height, width, 3))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("style", "text", "height"), [("eu", "B KX 4071", 16), ("eu", "M AB 123", 48), ("us", "7KXT402", 32)]
)
def test_a_plate_is_filled_with_one_colour_and_not_found_again(style, text, height):
    frame, number = put_plate(street(), style, text, centre=(320, 240), height=height)
    redacted, verdict = check_redaction(frame[None])
    assert (verdict.status, verdict.categories) == ("flag", ("plate_redacted",))
    assert np.any(redacted[0] != frame, axis=-1)[number].mean() > 0.9
    region = verdict.evidence["regions"][-1]
    patch = redacted[0, region["y"] :, region["x"] :][: region["height"], : region["width"]]
    assert len(np.unique(patch.reshape(-1, 3), axis=0)) == 1
    assert verdict.evidence["residual"] == 0


def test_plates_of_two_lines_need_the_rows_of_characters():
    frame, _ = put_plate(street(), "us", "7KXT402", centre=(320, 240), height=32)
    assert PlateDetector(PlateSearch()).detect(frame)
    assert PlateDetector(PlateSearch(character_rows=False)).detect(frame) == []


def test_rows_of_windows_and_stripes_are_no_plates():
    frame = street()
    for column in range(8):
        frame[60:80, 100 + 40 * column : 122 + 40 * column] = (50, 60, 72)
    stripe = np.array([[200, 300], [212, 300], [226, 330], [214, 330]])
    for number in range(7):
        cv2.fillPoly(frame, [stripe + np.array([26 * number, 0])], (230, 230, 230))
    assert PlateDetector(PlateSearch()).detect(frame) == []


def test_a_moving_plate_is_one_thing_and_covered_on_every_frame():
    placed = [
        put_plate(street(seed=t), "eu", "B KX 4071", centre=(150 + 10 * t, 200 + 3 * t), height=20) for t in range(13)
    ]
    frames = np.stack([frame for frame, _ in placed])
    redacted, report = redact_frames(frames, RedactionOptions(faces=None))
    assert (report.num_tracks, report.residual, report.num_frames_covered) == ({"plate": 1}, 0, 13)
    for before, after, (_, number) in zip(frames, redacted, placed, strict=True):
        assert np.any(before != after, axis=-1)[number].mean() > 0.9


def test_looking_for_nothing_is_refused():
    with pytest.raises(ValueError, match="neither faces nor plates"):
        RedactionOptions(faces=None, plates=None)


def test_detections_of_one_thing_on_its_way_are_one_track():
    tracks: list[Track] = []
    found = {
        0: [("face", (10, 10, 20, 20)), ("face", (90, 10, 20, 20))],
        4: [("face", (22, 10, 20, 20)), ("plate", (22, 10, 20, 20))],
        8: [("face", (34, 10, 22, 22)), ("face", (90, 12, 20, 20))],
    }
    add_to_tracks(tracks, found, reach=8)
    assert sorted((track.kind, sorted(track.boxes)) for track in tracks) == [
        ("face", [0, 4, 8]),
        ("face", [0, 8]),
        ("plate", [4]),
    ]


def test_a_thing_is_followed_past_its_last_and_before_its_first_box():
    track = Track("face", {4: (20, 10, 10, 10), 8: (40, 10, 10, 10)})
    assert run_on(track, 4) == [(8, 12, ("face", (40, 10, 30, 10))), (0, 4, ("face", (0, 10, 30, 10)))]
    assert run_on(Track("face", {4: (20, 10, 10, 10)}), 4) == []
    assert run_on(Track("face", {4: (20, 10, 10, 10), 8: (20, 10, 10, 10)}), 4) == []


def test_boxes_far_apart_or_of_other_size_are_other_things():
    assert may_be_same((0, 0, 10, 10), (18, 0, 12, 12))
    assert not may_be_same((0, 0, 10, 10), (40, 0, 10, 10))
    assert not may_be_same((0, 0, 10, 10), (0, 0, 25, 25))
    assert around((0, 5, 10, 10), (20, 0, 5, 5)) == (0, 0, 25, 15)
