"""A small world of traffic under a fixed camera: simulated, rendered, captioned and labelled from a seed."""

from __future__ import annotations

from examples.traffic_world.clip import Clip, SceneLabels, VehicleTrack, make_clip
from examples.traffic_world.palette import COLOURS, INCIDENTS, LAYOUTS, TIMES, VEHICLE_TYPES, WEATHERS

__all__ = [
    "COLOURS",
    "INCIDENTS",
    "LAYOUTS",
    "TIMES",
    "VEHICLE_TYPES",
    "WEATHERS",
    "Clip",
    "SceneLabels",
    "VehicleTrack",
    "make_clip",
]
