"""What happens from the moment of an impact on: momentum, spin and friction of two rigid boxes on the ground."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from examples.traffic_world import boxes
from examples.traffic_world.palette import VehicleType
from examples.traffic_world.traffic import STEP_S, Motion

_RESTITUTION = 0.15
_BODY_FRICTION = 0.35
"""Between the two bodies, Coulomb."""
_TYRE_DECELERATION = 6.6
_SUBSTEPS = 5
_STANDSTILL = 0.12
"""Below this a wheel no longer slides."""
CRUSH_M = 0.12
"""How deep the bodies may sink into each other: the metal gives way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impact:
    """When and where two vehicles met."""

    step: int
    """Of STEP_S."""
    point: np.ndarray
    """[2]."""
    normal: np.ndarray
    """[2], from the first vehicle to the second."""


def first_contact(first: Motion, second: Motion, kinds: tuple[VehicleType, VehicleType]) -> int | None:
    """The first step at which two vehicles overlap."""
    outlines = [
        boxes.corners(motion.position, motion.heading, kind.length, kind.width)
        for motion, kind in zip((first, second), kinds, strict=True)
    ]
    touching = np.flatnonzero(boxes.gap(outlines[0], outlines[1]) < 0)
    return int(touching[0]) if len(touching) else None


def crash(motions: tuple[Motion, Motion], kinds: tuple[VehicleType, VehicleType], step: int) -> Impact:
    """Replace what two vehicles do from `step` on by how they are thrown, slide and come to rest."""
    bodies = [_Body.of(motion, kind, step) for motion, kind in zip(motions, kinds, strict=True)]
    found: tuple[np.ndarray, np.ndarray] | None = None
    for now in range(step, len(motions[0].speed)):
        for body, motion in zip(bodies, motions, strict=True):
            body.record(motion, now, struck=now > step)
        for _ in range(_SUBSTEPS):
            contact = _contact(bodies[0], bodies[1])
            if contact is not None:
                found = found or contact[:2]
                _collide(bodies[0], bodies[1], *contact)
            for body in bodies:
                body.advance(STEP_S / _SUBSTEPS)
    assert found is not None
    return Impact(step=step, point=found[0], normal=found[1])


@dataclass(slots=True, kw_only=True)
class _Body:
    """A rigid box that slides on four locked wheels. Plain numbers: an array of two is slower than its content."""

    kind: VehicleType
    x: float
    y: float
    heading: float
    vx: float
    vy: float
    spin: float

    @classmethod
    def of(cls, motion: Motion, kind: VehicleType, step: int) -> _Body:
        before = max(step - 1, 0)
        velocity = (motion.position[step] - motion.position[before]) / STEP_S
        return cls(
            kind=kind,
            x=float(motion.position[step, 0]),
            y=float(motion.position[step, 1]),
            heading=float(motion.heading[step]),
            vx=float(velocity[0]),
            vy=float(velocity[1]),
            spin=float((motion.heading[step] - motion.heading[before]) / STEP_S),
        )

    @property
    def inertia(self) -> float:
        return self.kind.mass_kg * (self.kind.length**2 + self.kind.width**2) / 12

    def record(self, motion: Motion, step: int, *, struck: bool) -> None:
        motion.position[step] = self.x, self.y
        motion.heading[step] = self.heading
        motion.speed[step] = math.hypot(self.vx, self.vy)
        if struck:
            motion.braking[step] = True
            motion.sliding[step] = motion.speed[step] > 0.5 or abs(self.spin) > 0.4

    def outline(self) -> np.ndarray:
        """[4, 2]."""
        position, heading = np.array([self.x, self.y]), np.array(self.heading)
        return boxes.corners(position, heading, self.kind.length, self.kind.width)

    def advance(self, seconds: float) -> None:
        """Each wheel is braked against its own direction of motion with a quarter of the weight."""
        cos, sin = math.cos(self.heading), math.sin(self.heading)
        push_x = push_y = turn = 0.0
        for along in (0.31 * self.kind.length, -0.31 * self.kind.length):
            for across in (0.42 * self.kind.width, -0.42 * self.kind.width):
                arm_x, arm_y = cos * along - sin * across, sin * along + cos * across
                slip_x, slip_y = self.vx - self.spin * arm_y, self.vy + self.spin * arm_x
                slip = math.hypot(slip_x, slip_y)
                grip = _TYRE_DECELERATION / 4 / max(slip, 0.35)
                push_x -= grip * slip_x
                push_y -= grip * slip_y
                turn += arm_y * grip * slip_x - arm_x * grip * slip_y
        self.vx += push_x * seconds
        self.vy += push_y * seconds
        self.spin += turn * self.kind.mass_kg / self.inertia * seconds
        if math.hypot(self.vx, self.vy) < _STANDSTILL and abs(self.spin) < _STANDSTILL:
            self.vx = self.vy = self.spin = 0.0
        self.x += self.vx * seconds
        self.y += self.vy * seconds
        self.heading += self.spin * seconds


def _contact(first: _Body, second: _Body) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Point, normal from the first to the second, and depth of an overlap."""
    reach = (first.kind.length + second.kind.length) / 2 + 1.5
    if math.hypot(first.x - second.x, first.y - second.y) > reach:
        return None
    one, two = first.outline(), second.outline()
    if boxes.gap(one, two) >= 0:
        return None
    best, normal = math.inf, np.zeros(2)
    for corners in (one, two):
        for edge in (corners[1] - corners[0], corners[2] - corners[1]):
            axis = edge / np.linalg.norm(edge)
            for direction in (axis, -axis):
                depth = float((one @ direction).max() - (two @ direction).min())
                if depth < best:
                    best, normal = depth, direction
    inside = [*_within(one, two), *_within(two, one)]
    if not inside:
        return None
    return np.mean(inside, axis=0), normal, best


def _within(points: np.ndarray, box: np.ndarray) -> list[np.ndarray]:
    """The points that lie in a rectangle, with a centimetre of tolerance."""
    along, across = box[0] - box[1], box[2] - box[1]
    u = (points - box[1]) @ along / (along @ along)
    v = (points - box[1]) @ across / (across @ across)
    return [p for p, a, b in zip(points, u, v, strict=True) if -0.01 <= a <= 1.01 and -0.01 <= b <= 1.01]


def _collide(first: _Body, second: _Body, point: np.ndarray, normal: np.ndarray, depth: float) -> None:
    """Exchange momentum at a point, if the bodies approach there; push them apart beyond the crush depth."""
    arms = [(point[0] - body.x, point[1] - body.y) for body in (first, second)]
    nx, ny = float(normal[0]), float(normal[1])
    (ax, ay), (bx, by) = arms
    rel_x = second.vx - second.spin * by - first.vx + first.spin * ay
    rel_y = second.vy + second.spin * bx - first.vy - first.spin * ax
    closing = rel_x * nx + rel_y * ny
    if closing < 0:
        push = -(1 + _RESTITUTION) * closing * _effective_mass(first, second, arms, nx, ny)
        tx, ty = -ny, nx
        rubbing = rel_x * tx + rel_y * ty
        rub = -rubbing * _effective_mass(first, second, arms, tx, ty)
        rub = max(-_BODY_FRICTION * push, min(_BODY_FRICTION * push, rub))
        jx, jy = push * nx + rub * tx, push * ny + rub * ty
        for body, (rx, ry), sign in ((first, arms[0], -1.0), (second, arms[1], 1.0)):
            body.vx += sign * jx / body.kind.mass_kg
            body.vy += sign * jy / body.kind.mass_kg
            body.spin += sign * (rx * jy - ry * jx) / body.inertia
    excess = max(depth - CRUSH_M, 0.0) * 0.4
    share = second.kind.mass_kg / (first.kind.mass_kg + second.kind.mass_kg)
    first.x, first.y = first.x - nx * excess * share, first.y - ny * excess * share
    second.x, second.y = second.x + nx * excess * (1 - share), second.y + ny * excess * (1 - share)


def _effective_mass(first: _Body, second: _Body, arms: list[tuple[float, float]], nx: float, ny: float) -> float:
    """The mass that an impulse along a direction has to move at the contact."""
    inverse = 0.0
    for body, (rx, ry) in zip((first, second), arms, strict=True):
        inverse += 1 / body.kind.mass_kg + (rx * ny - ry * nx) ** 2 / body.inertia
    return 1 / inverse
