"""One clip: frames, caption, labels and tracks of a scene that takes one of its courses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from examples.traffic_world import boxes, captions
from examples.traffic_world.camera import NEAR_M, Camera
from examples.traffic_world.drafts import FAMILIES
from examples.traffic_world.lighting import lighting
from examples.traffic_world.palette import INCIDENTS, LAYOUTS, TIMES, WEATHERS
from examples.traffic_world.rendering import render
from examples.traffic_world.scene import Course, Scene, draw_scene
from examples.traffic_world.traffic import STEP_S, interpolated

_LAYOUT_SHARES = {"intersection": 0.45, "highway": 0.25, "crosswalk": 0.30}
_TIME_SHARES = (0.55, 0.20, 0.25)
_WEATHER_SHARES = (0.60, 0.20, 0.20)
_VISIBLE_PX = 30
"""Smallest visible box, in square pixels of a picture 192 wide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleTrack:
    """What one vehicle does, frame by frame."""

    id: int
    colour: str
    kind: str
    size_m: tuple[float, float, float]
    """Length, width, height."""
    position_m: np.ndarray
    """[T, 2]."""
    heading_rad: np.ndarray
    """[T]."""
    speed_mps: np.ndarray
    """[T]."""
    box_px: np.ndarray
    """[T, 4] x0, y0, x1, y1, clipped to the picture; NaN when outside."""
    visible: np.ndarray
    """[T] bool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneLabels:
    """What is true of a clip."""

    seed: int
    layout: str
    time_of_day: str
    weather: str
    incident: str | None
    impact_frame: int | None
    """The first frame at or after the contact."""
    involved: tuple[int, ...]
    """Ids of the vehicles that collide or nearly do."""
    subject_colour: str
    subject_kind: str
    subject_direction: str
    """Where the subject comes from, as seen by the camera."""
    subject_in_first_frame: bool
    colours: tuple[str, ...]
    """Of all vehicles that are seen at some time, without repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A rendered clip and everything known about it."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    background: np.ndarray
    """uint8 [H, W, 3], RGB: the scene without vehicles, walkers, rain and glow."""
    caption: str
    ordinary_caption: str
    """Of the same first frame, when nothing happens."""
    incident_captions: dict[str, str]
    """Of the same first frame, for each incident that the layout allows."""
    labels: SceneLabels
    tracks: tuple[VehicleTrack, ...]


def make_clip(
    seed: int,
    *,
    incident: str | None = None,
    layout: str | None = None,
    time_of_day: str | None = None,
    weather: str | None = None,
    width: int = 192,
    height: int = 112,
    num_frames: int = 61,
    fps: int = 10,
) -> Clip:
    """Simulate and render the clip of a seed. Equal arguments give equal clips.

    Clips that differ only in `incident` begin with the same frame.

    Args:
        seed: 0 or more.
        incident: one of INCIDENTS; None for ordinary traffic.
        layout: one of LAYOUTS that allows the incident; None draws one.
        time_of_day: one of TIMES; None draws one.
        weather: one of WEATHERS; None draws one.
        width: of the picture, pixels, even.
        height: of the picture, pixels, even.
        num_frames: at 10 frames per second the incidents need about 61.
        fps: frames per second.

    Raises:
        ValueError: a name is unknown, or the incident does not happen in the layout.
    """
    rng = np.random.default_rng([seed, 1])
    layout = layout or _draw_layout(rng, incident)
    time_drawn, weather_drawn = str(rng.choice(TIMES, p=_TIME_SHARES)), str(rng.choice(WEATHERS, p=_WEATHER_SHARES))
    time_of_day, weather = time_of_day or time_drawn, weather or weather_drawn
    _check(incident, layout, time_of_day, weather)
    scene = draw_scene(seed, layout, max((num_frames - 1) / fps, 6.0), width, height)
    light = lighting(np.random.default_rng([seed, 2]), time_of_day, weather, scene.place.lamps)
    course = scene.courses[incident or ""]
    times = np.arange(num_frames) / fps
    frames, background = render(scene, course, light, times, seed)
    texts = captions.captions(scene, seed, time_of_day, weather)
    tracks = tuple(_track(scene, course, index, times) for index in range(len(scene.vehicles)))
    return Clip(
        frames=frames,
        background=background,
        caption=texts[incident or ""],
        ordinary_caption=texts[""],
        incident_captions={family: text for family, text in texts.items() if family},
        labels=_labels(scene, course, tracks, seed, time_of_day, weather, incident, fps),
        tracks=tracks,
    )


def _draw_layout(rng: np.random.Generator, incident: str | None) -> str:
    """A layout that allows the incident; the same draw for all incidents where it can be."""
    order = rng.permutation(LAYOUTS)
    drawn = str(rng.choice(LAYOUTS, p=[_LAYOUT_SHARES[layout] for layout in LAYOUTS]))
    if incident is None or incident in FAMILIES[drawn]:
        return drawn
    return next((str(layout) for layout in order if incident in FAMILIES[str(layout)]), drawn)


def _check(incident: str | None, layout: str, time_of_day: str, weather: str) -> None:
    for got, known in (
        (incident or INCIDENTS[0], INCIDENTS),
        (layout, LAYOUTS),
        (time_of_day, TIMES),
        (weather, WEATHERS),
    ):
        if got not in known:
            raise ValueError(f"got {got!r}, expected one of {', '.join(known)}")
    if incident is not None and incident not in FAMILIES[layout]:
        raise ValueError(f"no {incident} in the layout {layout}; it has {', '.join(FAMILIES[layout])}")


def _labels(
    scene: Scene,
    course: Course,
    tracks: tuple[VehicleTrack, ...],
    seed: int,
    time_of_day: str,
    weather: str,
    incident: str | None,
    fps: int,
) -> SceneLabels:
    impact = None if course.impact is None else math.ceil(course.impact.step * STEP_S * fps - 1e-6)
    subject = tracks[0]
    return SceneLabels(
        seed=seed,
        layout=scene.layout,
        time_of_day=time_of_day,
        weather=weather,
        incident=incident,
        impact_frame=impact,
        involved=() if incident is None else (0, 1),
        subject_colour=subject.colour,
        subject_kind=subject.kind,
        subject_direction=captions.direction(scene.vehicles[0], course.motions[0], scene.camera),
        subject_in_first_frame=bool(subject.visible[0]),
        colours=tuple(dict.fromkeys(track.colour for track in tracks if track.visible.any())),
    )


def _track(scene: Scene, course: Course, index: int, times: np.ndarray) -> VehicleTrack:
    vehicle, motion = scene.vehicles[index], course.motions[index]
    position, heading, speed = interpolated(motion, times)
    box, visible = _boxes(scene.camera, position, heading, vehicle.kind.size_m)
    return VehicleTrack(
        id=index,
        colour=vehicle.colour,
        kind=vehicle.kind.name,
        size_m=vehicle.kind.size_m,
        position_m=position,
        heading_rad=heading,
        speed_mps=speed,
        box_px=box,
        visible=visible,
    )


def _boxes(
    camera: Camera, position: np.ndarray, heading: np.ndarray, size: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [T, 4] around the eight corners of vehicles, and whether enough of them is in the picture [T]."""
    ground = boxes.corners(position, heading, size[0], size[1])
    low = np.concatenate([ground, np.zeros((*ground.shape[:-1], 1))], axis=-1)
    corners = np.concatenate([low, low + np.array([0.0, 0.0, size[2]])], axis=1)
    seen, depth = camera.project(corners.reshape(-1, 3))
    seen, depth = seen.reshape(-1, 8, 2), depth.reshape(-1, 8)
    whole = np.concatenate([seen.min(1), seen.max(1)], axis=1)
    limit = np.array([camera.width, camera.height] * 2)
    clipped = np.clip(whole, 0, limit)
    area = (clipped[:, 2] - clipped[:, 0]) * (clipped[:, 3] - clipped[:, 1])
    full = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    inside = (depth.min(1) > NEAR_M) & (area > 0)
    visible = inside & (area > 0.25 * full) & (area > _VISIBLE_PX * (camera.width / 192) ** 2)
    clipped[~inside] = np.nan
    return clipped, visible
