"""What a person would write about a scene, in four parts: camera, scene, what happens, what follows.

All courses of a scene share the first two parts, so that the same first frame can be prompted with any of them.
"""

from __future__ import annotations

import math

import numpy as np

from examples.traffic_world.camera import Camera
from examples.traffic_world.scene import Scene
from examples.traffic_world.traffic import Motion, Vehicle

MAX_WORDS = 90
"""Of a caption: others than the main vehicles are left out beyond."""

_CAMERAS = (
    "A static traffic CCTV camera captures {place} {when}.",
    "A fixed traffic camera on a mast records {place} {when}.",
    "A static roadside surveillance camera films {place} {when}.",
    "Static CCTV footage shows {place} {when}.",
)
_PLACES = {
    "intersection": ("a four-way intersection", "a four-way city intersection with crosswalks and stop lines"),
    "highway": ("a multi-lane highway", "a multi-lane highway with a guard rail"),
    "crosswalk": ("a two-way street with a zebra crossing", "a two-way street with a pedestrian crosswalk"),
}
_WHEN = {
    ("day", "clear"): ("on a clear day", "in clear daylight"),
    ("day", "rain"): ("on a rainy day", "in daylight and rain, the road wet"),
    ("day", "fog"): ("on a foggy day", "in daylight, veiled in fog"),
    ("dusk", "clear"): ("at dusk under a clear sky", "on a clear evening at dusk"),
    ("dusk", "rain"): ("at dusk in the rain", "on a rainy evening at dusk"),
    ("dusk", "fog"): ("at dusk in the fog", "on a foggy evening at dusk"),
    ("night", "clear"): ("on a clear night under street lamps", "at night in clear weather"),
    ("night", "rain"): ("on a rainy night", "at night in the rain, lamps mirrored on the wet road"),
    ("night", "fog"): ("on a foggy night", "at night in the fog"),
}
_ENTERS = ("{a} enters from {way}", "{a} drives into view from {way}")
_COMES = ("{a} is already in view, coming from {way}", "{a} approaches from {way}")

_ORDINARY = {
    "intersection": (
        "The {a} drives straight across the intersection while the {b} slows down and stops at the stop line.",
        "The {b} brakes gently and waits at its stop line, letting the {a} pass through the intersection.",
    ),
    "highway": (
        "The {a} and the {b} keep their lane and pass smoothly one behind the other at a steady distance.",
        "The {b} follows the {a} in the same lane and drops back to a safe distance.",
    ),
    "crosswalk": (
        "The {a} slows down before the crossing for {people} and the {b} behind it slows down as well.",
        "The {a} brakes gently before the zebra for {people}, and the {b} keeps its distance behind it.",
    ),
}
_FLOWS = ("Traffic flows on.", "Nothing happens and traffic flows on calmly.", "Everybody keeps a safe distance.")
_INCIDENTS = {
    ("intersection", "t_bone"): (
        "The {b} runs the stop line and crashes into the side of the {a} in the intersection, a t-bone collision.",
        "The {b} fails to stop and hits the side of the crossing {a}, a t-bone collision in the intersection.",
    ),
    ("highway", "rear_end"): (
        "The {a} suddenly brakes hard and the {b} crashes into its rear, a rear-end collision.",
        "The {b} does not react when the {a} brakes hard and hits it from behind, a rear-end collision.",
    ),
    ("crosswalk", "rear_end"): (
        "The {a} brakes hard for {people} and the {b} crashes into its rear, a rear-end collision.",
        "The {b} does not react when the {a} brakes hard and hits it from behind, a rear-end collision.",
    ),
    ("intersection", "near_miss"): (
        "The {b} runs over the stop line and brakes hard late while the {a} swerves, a near miss without contact.",
        "The {b} stops just short of the swerving {a} in the intersection, a near miss without contact.",
    ),
    ("highway", "near_miss"): (
        "The {a} suddenly brakes hard and the {b} stops just short of its rear, a near miss without contact.",
        "The {b} brakes at the last moment behind the hard braking {a}, a near miss without contact.",
    ),
    ("crosswalk", "near_miss"): (
        "The {a} brakes hard for {people} and the {b} stops just short of its rear, a near miss without contact.",
        "The {b} brakes at the last moment behind the hard braking {a}, a near miss without contact.",
    ),
}
_AFTERMATH = {
    "t_bone": (
        "Both vehicles spin, slide and come to rest, debris lies on the road and the other traffic stops.",
        "The impact throws both vehicles sideways until they stand still among debris, and the other drivers stop.",
    ),
    "rear_end": (
        "Both vehicles lurch forward and skid to a standstill, debris lies on the road and the traffic behind stops.",
        "The vehicles are pushed forward and stop with hazard lights blinking, debris scattered around them.",
    ),
    "near_miss": (
        "After a short pause the vehicles go on.",
        "Nobody is hit, and after a moment traffic goes on.",
    ),
}


def captions(scene: Scene, seed: int, time_of_day: str, weather: str) -> dict[str, str]:
    """The caption of every course of a scene, by family; "" is the ordinary course."""
    rng = np.random.default_rng([seed, 7])
    words = {"a": noun(scene.vehicles[0]), "b": noun(scene.vehicles[1]), "people": _people(scene)}
    opening = _pick(rng, _CAMERAS).format(
        place=_pick(rng, _PLACES[scene.layout]), when=_pick(rng, _WHEN[time_of_day, weather])
    )
    settings = _settings(rng, scene)
    endings = {"": f"{_pick(rng, _ORDINARY[scene.layout])} {_pick(rng, _FLOWS)}"}
    for family in scene.courses:
        if family:
            endings[family] = f"{_pick(rng, _INCIDENTS[scene.layout, family])} {_pick(rng, _AFTERMATH[family])}"
    endings = {family: ending.format(**words) for family, ending in endings.items()}
    most = max(len(ending.split()) for ending in endings.values()) + len(opening.split())
    setting = next((text for text in settings if most + len(text.split()) <= MAX_WORDS), settings[-1])
    return {family: f"{opening} {setting} {ending}" for family, ending in endings.items()}


def ordinary_caption(scene: Scene, seed: int, time_of_day: str, weather: str) -> str:
    """The caption of the course in which nothing happens."""
    return captions(scene, seed, time_of_day, weather)[""]


def noun(vehicle: Vehicle) -> str:
    """Colour and type."""
    return f"{vehicle.colour} {vehicle.kind.name}"


def direction(vehicle: Vehicle, motion: Motion, camera: Camera) -> str:
    """Where in the picture a vehicle comes from: left, far right, distance, ..."""
    heading = float(motion.heading[0])
    ahead = camera.axes[2, :2] / np.linalg.norm(camera.axes[2, :2])
    right = float(np.array([math.cos(heading), math.sin(heading)]) @ camera.axes[0, :2])
    away = 0.55 * float(np.array([math.cos(heading), math.sin(heading)]) @ ahead)
    sector = round(math.atan2(away, right) / (math.pi / 4)) % 8
    return ("left", "near left", "foreground", "near right", "right", "far right", "distance", "far left")[sector]


def in_view(motion: Motion, camera: Camera, step: int = 0) -> bool:
    """Whether the middle of a vehicle is in the picture at a step."""
    seen, depth = camera.project(np.array([[*motion.position[step], 0.6]]))
    inside = (seen[0] > 0).all() and (seen[0] < (camera.width, camera.height)).all()
    return bool(depth[0] > 3 and inside)


def _settings(rng: np.random.Generator, scene: Scene) -> list[str]:
    """Who is there and where from, from the fullest text to the shortest."""
    motions = scene.courses[""].motions
    parts = [_arrival(rng, scene, index, motions[index]) for index in (0, 1)]
    first = f"{parts[0]} and {parts[1]}."
    if scene.layout != "intersection":
        follower = noun(scene.vehicles[1])
        first = f"{parts[0]}, followed closely by {_article(follower)} in the same lane."
    extras = [
        _extra(scene, index, motion) for index, motion in enumerate(motions) if index > 1 and _shows(scene, motion)
    ]
    seconds = [f" {_sentence(' and '.join(extras[:count]))}." if count else "" for count in (2, 1, 0)]
    return [f"{_sentence(first)}{second}" for second in seconds]


def _arrival(rng: np.random.Generator, scene: Scene, index: int, motion: Motion) -> str:
    vehicle = scene.vehicles[index]
    patterns = _COMES if in_view(motion, scene.camera) else _ENTERS
    return _pick(rng, patterns).format(a=_article(noun(vehicle)), way=_way(direction(vehicle, motion, scene.camera)))


def _extra(scene: Scene, index: int, motion: Motion) -> str:
    """What one of the other vehicles does."""
    vehicle = scene.vehicles[index]
    name = _article(noun(vehicle))
    if motion.speed.max() < 0.5:
        return f"{name} waits at the stop line"
    way = _way(direction(vehicle, motion, scene.camera))
    if vehicle.path.manoeuvre == "right":
        return f"{name} comes from {way} and turns right"
    if vehicle.path is scene.vehicles[0].path and vehicle.start_m < scene.vehicles[0].start_m:
        return f"{name} follows from {way}"
    return f"{name} comes from {way}"


def _shows(scene: Scene, motion: Motion) -> bool:
    return any(in_view(motion, scene.camera, step) for step in range(0, len(motion.speed), 6))


def _people(scene: Scene) -> str:
    crossing = sum(walker.velocity != (0.0, 0.0) for walker in scene.walkers)
    return "a crossing pedestrian" if crossing == 1 else "crossing pedestrians"


def _way(where: str) -> str:
    return f"the {where}"


def _article(name: str) -> str:
    return f"a {name}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]
