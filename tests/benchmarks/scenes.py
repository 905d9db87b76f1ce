"""Simulator clips that several tests look at; rendered once a run."""

from __future__ import annotations

from functools import cache

from benchmarks.foreground import Foreground, find_foreground
from examples.traffic_world import Clip, make_clip

SEEDS = range(30000, 30008)


@cache
def clip(seed: int, incident: str | None = None, **options: str) -> Clip:
    return make_clip(seed, incident=incident, **options)


def collision(seed: int) -> Clip:
    family = next(name for name in clip(seed).incident_captions if name != "near_miss")
    return clip(seed, family)


def seen(scene: Clip) -> Foreground:
    return find_foreground(scene.frames, scene.background)
