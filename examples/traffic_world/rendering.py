"""The frames of a scene that takes one of its courses."""

from __future__ import annotations

import math

import numpy as np

from examples.traffic_world.background import paint_background
from examples.traffic_world.effects import Debris, paint_puff, paint_rain
from examples.traffic_world.lighting import Lighting
from examples.traffic_world.painter import SUPERSAMPLING, Painter, Pose
from examples.traffic_world.palette import COLOURS
from examples.traffic_world.scene import Course, Scene
from examples.traffic_world.traffic import STEP_S, Motion, interpolated

_CRUSH_M = 0.34
_HAZARD_AFTER_S = 0.9
_HAZARD_PERIOD_S = 0.8


def render(
    scene: Scene, course: Course, light: Lighting, times: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, H, W, 3] and the still picture [H, W, 3]."""
    camera = scene.camera.scaled(SUPERSAMPLING)
    background = paint_background(np.random.default_rng([seed, 3]), scene.place, camera, light)
    painter = Painter(background, camera, light)
    still = painter.develop()
    rng = np.random.default_rng([seed, 4])
    slant = float(rng.uniform(-0.25, 0.25))
    debris = _debris(np.random.default_rng([seed, 5]), scene, course)
    frames = np.empty((len(times), *still.shape), dtype=np.uint8)
    done = 0
    for number, time in enumerate(times):
        step = round(time / STEP_S)
        for motion, vehicle in zip(course.motions, scene.vehicles, strict=True):
            _skid(painter, motion, vehicle.kind.length, vehicle.kind.width, done, step)
        done = step
        painter.begin()
        poses = [_pose(scene, course, index, time) for index in range(len(scene.vehicles))]
        after = -1.0 if course.impact is None else time - course.impact.step * STEP_S
        for pose in poses:
            painter.shadow(pose)
        if debris is not None and after >= 0:
            debris.paint(painter.canvas, after, camera, light, flying=False)
        _paint(painter, scene, poses, time)
        if debris is not None and course.impact is not None and after >= 0:
            debris.paint(painter.canvas, after, camera, light, flying=True)
            paint_puff(painter.canvas, course.impact.point, after, camera, light)
        if light.wet:
            paint_rain(painter.canvas, rng, slant, light)
        frames[number] = painter.develop()
    return frames, still


def _paint(painter: Painter, scene: Scene, poses: list[Pose], time: float) -> None:
    """Everything that stands on the road, from far to near."""
    eye = painter.camera.position[:2]
    spots = [walker.at(np.array([time]))[0] for walker in scene.walkers]
    for spot in spots:
        painter.walker_shadow(spot)
    order = [(float(np.linalg.norm(pose.position - eye)), 0, index) for index, pose in enumerate(poses)]
    order += [(float(np.linalg.norm(spot - eye)), 1, index) for index, spot in enumerate(spots)]
    for _, what, index in sorted(order, reverse=True):
        if what == 0:
            painter.vehicle(poses[index])
            painter.shine(poses[index])
        else:
            walker = scene.walkers[index]
            walking = walker.velocity != (0.0, 0.0) and time > walker.from_s
            painter.walker(spots[index], 6.5 * time + index, walker.clothes, walking=walking)


def _pose(scene: Scene, course: Course, index: int, time: float) -> Pose:
    motion, vehicle = course.motions[index], scene.vehicles[index]
    position, heading, _ = interpolated(motion, np.array([time]))
    crushed, hazard = (0.0, 0.0), False
    if course.impact is not None and index < 2:
        after = time - course.impact.step * STEP_S
        if after >= 0:
            outwards = course.impact.normal * (1 if index == 0 else -1)
            now = motion.heading[course.impact.step]
            facing = float(outwards @ (math.cos(now), math.sin(now)))
            crushed = (_CRUSH_M * (facing > 0.7), _CRUSH_M * (facing < -0.7))
        hazard = after > _HAZARD_AFTER_S and (after % _HAZARD_PERIOD_S) < _HAZARD_PERIOD_S / 2
    return Pose(
        kind=vehicle.kind,
        colour=vehicle.colour,
        position=position[0],
        heading=float(heading[0]),
        braking=bool(motion.braking[min(round(time / STEP_S), len(motion.braking) - 1)]),
        hazard=hazard,
        crushed=crushed,
    )


def _debris(rng: np.random.Generator, scene: Scene, course: Course) -> Debris | None:
    if course.impact is None:
        return None
    step = course.impact.step
    after = min(step + 2, len(course.motions[0].speed) - 1)
    drift = sum((motion.position[after] - motion.position[step]) / (2 * STEP_S * 2) for motion in course.motions[:2])
    paint = [np.array(COLOURS[vehicle.colour], dtype=float) for vehicle in scene.vehicles[:2]]
    return Debris.thrown(rng, course.impact.point, np.asarray(drift), paint)


def _skid(painter: Painter, motion: Motion, length: float, width: float, first: int, last: int) -> None:
    """The marks that sliding tyres leave between two steps."""
    for step in range(first, min(last, len(motion.speed) - 1)):
        if not motion.sliding[step]:
            continue
        for along in (0.31, -0.30):
            for across in (0.40, -0.40):
                ends = []
                for now in (step, step + 1):
                    cos, sin = math.cos(motion.heading[now]), math.sin(motion.heading[now])
                    arm = (cos * along * length - sin * across * width, sin * along * length + cos * across * width)
                    ends.append(motion.position[now] + arm)
                ahead = ends[1] - ends[0]
                if np.linalg.norm(ahead) > 0.05:
                    side = np.array([-ahead[1], ahead[0]]) / np.linalg.norm(ahead) * 0.11
                    painter.mark(np.array([ends[0] - side, ends[0] + side, ends[1] + side, ends[1] - side]))
