"""Colours, times of day and weathers are read from pixels."""

from __future__ import annotations

import numpy as np

from benchmarks.classifier import load_classifier
from benchmarks.foreground import find_foreground
from benchmarks.prompt_measures import COLOUR_FEATURES, LIGHT_FEATURES, colour_features, light_features, subject_place
from tests.benchmarks.scenes import SEEDS, clip, seen


def test_the_subjects_colour_is_found():
    classifier = load_classifier("colour")
    right = []
    for seed in SEEDS:
        scene = clip(seed)
        features = colour_features(seen(scene), scene.background, subject_place(scene))
        assert features is not None
        assert len(features) == len(COLOUR_FEATURES)
        right.append(classifier.best(features) == scene.labels.subject_colour)
    assert np.mean(right) >= 0.6
    empty = np.repeat(scene.background[None], len(scene.frames), axis=0)
    assert colour_features(find_foreground(empty, scene.background), scene.background, subject_place(scene)) is None


def test_time_and_weather_are_found():
    right = []
    for seed, (time, weather) in enumerate(
        [("day", "clear"), ("night", "clear"), ("day", "fog"), ("dusk", "rain"), ("night", "rain"), ("dusk", "clear")]
    ):
        scene = clip(SEEDS[0] + seed, time_of_day=time, weather=weather)
        features = light_features(scene.frames)
        assert len(features) == len(LIGHT_FEATURES)
        right += [load_classifier("time_of_day").best(features) == time]
        right += [load_classifier("weather").best(features) == weather]
    assert np.mean(right) > 0.75
