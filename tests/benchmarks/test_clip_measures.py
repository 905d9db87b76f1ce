"""Fidelity, steadiness, motion and speed see what is wrong with a clip, and not what is merely soft."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.clip_measures import blob_speed, motion_curve, psnr, steadiness, still_mask, track_speed
from benchmarks.degradation import degraded
from benchmarks.foreground import find_foreground
from tests.benchmarks.scenes import SEEDS, clip, seen


def test_psnr():
    black, grey = np.zeros((2, 4, 4, 3), dtype=np.uint8), np.full((2, 4, 4, 3), 16, dtype=np.uint8)
    assert psnr(black, black) == 99
    assert psnr(black, grey) == pytest.approx(20 * math.log10(255 / 16), abs=1e-4)
    half = grey.copy()
    half[0] = 0
    assert psnr(black, half, np.array([True, False])[:, None, None].repeat(4, 1).repeat(4, 2)) == 99


def test_a_picture_that_drifts_is_less_steady():
    scene = clip(SEEDS[1])
    drifting = np.stack([np.roll(frame, number // 15, axis=1) for number, frame in enumerate(scene.frames)])
    unsteady = [
        steadiness(frames, still_mask([scene], find_foreground(frames, scene.background)))
        for frames in (scene.frames, degraded(scene.frames, 1), drifting)
    ]
    assert unsteady[0] < 1.5
    assert unsteady[2] > 2 * unsteady[0]
    assert unsteady[2] > unsteady[1] > unsteady[0]


def test_steadiness_means_nothing_where_nothing_is_still():
    scene = clip(SEEDS[1])
    assert math.isnan(steadiness(scene.frames, np.zeros(scene.background.shape[:2], dtype=bool)))


def test_motion_survives_degradation_and_ends_with_a_frozen_clip():
    for seed in SEEDS[:4]:
        scene = clip(seed)
        softened = find_foreground(degraded(scene.frames, 2), scene.background)
        whole, soft = motion_curve(seen(scene)), motion_curve(softened)
        assert np.corrcoef(whole, soft)[0, 1] > 0.9
        assert soft.mean() == pytest.approx(whole.mean(), rel=0.4)
        frozen = np.repeat(scene.frames[20:21], 12, axis=0)
        assert motion_curve(find_foreground(frozen, scene.background)).max() == 0


def test_blobs_are_as_fast_as_the_simulators_vehicles():
    measured = np.nanmean([blob_speed(seen(clip(seed))) for seed in SEEDS])
    assert measured == pytest.approx(np.nanmean([track_speed(clip(seed)) for seed in SEEDS]), rel=0.4)


def test_fewer_frames_of_the_same_traffic_are_faster():
    scenes = [clip(seed) for seed in SEEDS]
    sparse = [find_foreground(scene.frames[::2], scene.background) for scene in scenes]
    assert np.nanmean([blob_speed(each) for each in sparse]) > 1.3 * np.nanmean([blob_speed(seen(s)) for s in scenes])
