"""Captions with their labels, without rendering anything."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from examples.traffic_world import LAYOUTS, TIMES, WEATHERS
from examples.traffic_world.captions import captions, direction
from examples.traffic_world.scene import draw_scene

__all__ = ["captions_and_labels"]

_FIRST_SEED = 100_000
_SECONDS = 6.0
_WIDTH, _HEIGHT = 192, 112


def captions_and_labels(num_scenes: int) -> list[tuple[str, dict[str, Any]]]:
    """The captions of all courses of some scenes, each with what it says."""
    seeds = range(_FIRST_SEED, _FIRST_SEED + num_scenes)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return [pair for pairs in pool.map(_of_scene, seeds, chunksize=16) for pair in pairs]


def _of_scene(seed: int) -> list[tuple[str, dict[str, Any]]]:
    rng = np.random.default_rng([seed, 6])
    layout, time_of_day, weather = (str(rng.choice(names)) for names in (LAYOUTS, TIMES, WEATHERS))
    scene = draw_scene(seed, layout, _SECONDS, _WIDTH, _HEIGHT)
    subject = scene.vehicles[0]
    labels = {
        "layout": layout,
        "time_of_day": time_of_day,
        "weather": weather,
        "subject_colour": subject.colour,
        "subject_kind": subject.kind.name,
        "subject_direction": direction(subject, scene.courses[""].motions[0], scene.camera),
        "colours": [vehicle.colour for vehicle in scene.vehicles[:2]],
    }
    told = captions(scene, seed, time_of_day, weather)
    return [(text, {**labels, "incident": family or None}) for family, text in told.items()]
