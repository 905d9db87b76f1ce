"""Draw a scene from a seed: a place, a camera, traffic with two vehicles whose ways meet, and every course it can take.

The courses of a scene share the first frame and differ in what the drivers do next. A scene is kept only if all its
courses are sound: nobody else is touched, the impact is early and central enough to be seen, and all is at rest at
the end. So ordinary and incident clips come from one distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from examples.traffic_world import boxes
from examples.traffic_world.camera import Camera
from examples.traffic_world.drafts import DRAFTS, FAMILIES, Draft, Walker
from examples.traffic_world.incidents import Impact, crash, first_contact
from examples.traffic_world.roads import PLACES, Place, skyline
from examples.traffic_world.traffic import STEP_S, Braking, Motion, Plan, Vehicle, drive

_ATTEMPTS = 400


@dataclass(slots=True, kw_only=True)
class Course:
    """One way that a scene goes, in steps of STEP_S."""

    motions: list[Motion]
    impact: Impact | None


@dataclass(slots=True, kw_only=True)
class Scene:
    """A place, a camera and traffic, with every course that it can take."""

    layout: str
    place: Place
    camera: Camera
    vehicles: list[Vehicle]
    walkers: list[Walker]
    courses: dict[str, Course]
    """By family; "" is the ordinary course."""


def draw_scene(seed: int, layout: str, seconds: float, width: int, height: int) -> Scene:
    """The scene of a seed in a layout."""
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt, len(layout)])
        draft = DRAFTS[layout](rng)
        camera = _camera(rng, draft, width, height)
        courses = _courses(draft, camera, layout, seconds)
        if courses is not None:
            return Scene(
                layout=layout,
                place=_place(rng, layout, draft, camera),
                camera=camera,
                vehicles=draft.vehicles,
                walkers=draft.walkers,
                courses=courses,
            )
    raise AssertionError(f"no sound scene for seed {seed} in {_ATTEMPTS} attempts")


def _place(rng: np.random.Generator, layout: str, draft: Draft, camera: Camera) -> Place:
    """The surroundings, without what stands between the camera and the traffic."""
    place = PLACES[layout](rng)
    skyline(place, rng)
    eye = camera.position[:2]
    free = 0.86 * float(np.linalg.norm(np.array(draft.target) - eye))
    place.solids = [
        solid
        for solid in place.solids
        if float(np.linalg.norm(solid.footprint.mean(0) - eye)) > free + 0.7 * float(np.ptp(solid.footprint[:, 1]))
        or max(face.points[:, 2].max() for face in solid.faces) < 1.0
    ]
    return place


def _camera(rng: np.random.Generator, draft: Draft, width: int, height: int) -> Camera:
    low, high = draft.azimuths[rng.integers(len(draft.azimuths))]
    azimuth = math.radians(rng.uniform(low, high))
    reach, mast = rng.uniform(*draft.reach), rng.uniform(7.2, 10.5)
    target = np.array([draft.target[0] + rng.uniform(-1, 1), draft.target[1] + rng.uniform(-1, 1), 0.4])
    position = target + np.array([reach * math.cos(azimuth), reach * math.sin(azimuth), mast])
    view_width = rng.uniform(26, 33)
    return Camera.looking_at(position, target, view_width_m=view_width, width=width, height=height)


def _courses(draft: Draft, camera: Camera, layout: str, seconds: float) -> dict[str, Course] | None:
    """All courses, or None as soon as one is not sound."""
    ordinary = Course(motions=drive(draft.vehicles, draft.plans[""], seconds), impact=None)
    if not _sound(ordinary, draft, apart_m=0.35) or not _lively(ordinary, camera):
        return None
    courses = {"": ordinary}
    for family in FAMILIES[layout]:
        course = _near_miss(draft, seconds) if family == "near_miss" else _collision(draft, family, camera, seconds)
        if course is None or not _sound(course, draft, apart_m=0.25):
            return None
        courses[family] = course
    return courses


def _collision(draft: Draft, family: str, camera: Camera, seconds: float) -> Course | None:
    kinds = (draft.vehicles[0].kind, draft.vehicles[1].kind)
    plans = draft.plans[family]
    motions = drive(draft.vehicles, plans, seconds)
    step = first_contact(motions[0], motions[1], kinds)
    if step is None or not 1.6 <= step * STEP_S <= 3.35:
        return None
    middle = (motions[0].position[step] + motions[1].position[step]) / 2
    picture, depth = camera.project(np.array([[*middle, 0.5]]))
    share = picture[0] / (camera.width, camera.height)
    if depth[0] < 5 or not (share >= 0.22).all() or not (share <= 0.78).all():
        return None
    middle = motions[0].position[step]
    plans = [plan if index < 2 else _bystander(plan, motions[index], step, middle) for index, plan in enumerate(plans)]
    motions = drive(draft.vehicles, plans, seconds)
    impact = crash((motions[0], motions[1]), kinds, step)
    if any(motion.speed[-10:].max() > 0.3 for motion in motions[:2]):
        return None
    ends, _ = camera.project(np.array([[*motion.position[-1], 0.5] for motion in motions[:2]]))
    rest = ends / (camera.width, camera.height)
    if not (rest >= 0.04).all() or not (rest <= 0.96).all():
        return None
    course = Course(motions=motions, impact=impact)
    return None if _hidden(course, draft, camera) else course


def _hidden(course: Course, draft: Draft, camera: Camera) -> bool:
    """Whether a tall bystander stands between the camera and the crash in the second after the impact."""
    assert course.impact is not None
    eye, step = camera.position[:2], course.impact.step
    steps = np.arange(step, min(step + round(1.0 / STEP_S), len(course.motions[0].speed)), 4)
    ray = course.impact.point - eye
    for vehicle, motion in zip(draft.vehicles[2:], course.motions[2:], strict=True):
        offset = motion.position[steps] - eye
        along = offset @ ray / (ray @ ray)
        across = np.abs(offset @ np.array([-ray[1], ray[0]])) / np.linalg.norm(ray)
        low = camera.position[2] * (1 - along) < vehicle.kind.height + 0.5  # the line of sight passes below its roof
        if (low & (along < 0.97) & (across < vehicle.kind.length / 2 + 1.0) & (vehicle.kind.height > 2.1)).any():
            return True
    return False


def _bystander(plan: Plan, motion: Motion, step: int, wreck: np.ndarray) -> Plan:
    """What the others do when they see a crash: brake to a standstill, unless it is behind them."""
    ahead = (np.cos(motion.heading[step]), np.sin(motion.heading[step]))
    if float((wreck - motion.position[step]) @ ahead) < -1.0:
        return plan
    braking = Braking(from_s=step * STEP_S + 0.3, until_s=math.inf, deceleration=6.0)
    return replace(plan, brakings=(*plan.brakings, braking))


def _near_miss(draft: Draft, seconds: float) -> Course | None:
    course = Course(motions=drive(draft.vehicles, draft.plans["near_miss"], seconds), impact=None)
    gaps = _gaps(course, draft, 0, 1)
    closest = int(gaps.argmin())
    if not 0.2 <= gaps[closest] <= 1.6 or not 1.0 <= closest * STEP_S <= 5.0:
        return None
    return course


def _outline(course: Course, draft: Draft, index: int) -> np.ndarray:
    """[T, 4, 2]."""
    motion, kind = course.motions[index], draft.vehicles[index].kind
    return boxes.corners(motion.position, motion.heading, kind.length, kind.width)


def _gaps(course: Course, draft: Draft, first: int, second: int) -> np.ndarray:
    """[T] metres between two vehicles."""
    return boxes.gap(_outline(course, draft, first), _outline(course, draft, second))


def _sound(course: Course, draft: Draft, *, apart_m: float) -> bool:
    """Nobody touches anybody who is not meant to; walkers keep a metre from vehicles."""
    outlines = np.stack([_outline(course, draft, index) for index in range(len(draft.vehicles))])
    first, second = np.triu_indices(len(outlines), k=1)
    closest = boxes.gap(outlines[first], outlines[second]).min(-1)
    meant = (first == 0) & (second == 1)  # the pair may come closer than others, or collide
    limit = np.where(meant, -math.inf if course.impact is not None else 0.7 * apart_m, apart_m)
    if (closest < limit).any():
        return False
    time = np.arange(len(course.motions[0].speed)) * STEP_S
    for walker in draft.walkers:
        spot = boxes.corners(walker.at(time), np.zeros(len(time)), 0.6, 0.6)
        if float(boxes.gap(outlines, np.broadcast_to(spot, outlines.shape)).min()) < 0.5:
            return False
    return True


def _lively(course: Course, camera: Camera) -> bool:
    """Something clearly moves around the middle of the picture for most of the time."""
    busy = np.zeros(len(course.motions[0].speed), dtype=bool)
    for motion in course.motions:
        points = np.concatenate([motion.position, np.full((len(motion.speed), 1), 0.7)], axis=1)
        picture, depth = camera.project(points)
        share = picture / (camera.width, camera.height)
        near = (depth > 5) & (depth < 45) & (share > 0.1).all(1) & (share < 0.9).all(1)
        busy |= near & (motion.speed > 1.5)
    return float(busy.mean()) > 0.62
