"""Collisions are found, and nothing is found where nothing happens."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.degradation import degraded
from benchmarks.foreground import find_foreground
from benchmarks.incident_features import FEATURES, incident_features
from benchmarks.incident_measure import incident_probability
from tests.benchmarks.scenes import SEEDS, clip, collision


@pytest.mark.parametrize("worse", [False, True])
def test_collisions_are_told_from_ordinary_traffic(worse):
    found = {True: [], False: []}
    for happened in found:
        for seed in SEEDS:
            scene = collision(seed) if happened else clip(seed)
            frames = degraded(scene.frames, seed) if worse else scene.frames
            found[happened].append(incident_probability(find_foreground(frames, scene.background)) > 0.5)
    assert np.mean(found[True]) >= 0.7
    assert np.mean(found[False]) <= 0.3


def test_the_incident_measure_says_nothing_happens_in_an_empty_or_frozen_clip():
    scene = clip(SEEDS[0])
    empty = np.repeat(scene.background[None], len(scene.frames), axis=0)
    frozen = np.repeat(scene.frames[:1], len(scene.frames), axis=0)
    for frames in (empty, frozen):
        features = incident_features(find_foreground(frames, scene.background))
        assert len(features) == len(FEATURES)
        assert np.isfinite(features).all()
        assert incident_probability(find_foreground(frames, scene.background)) < 0.5
