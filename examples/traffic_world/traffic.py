"""Ordinary driving: each vehicle keeps its path, its gap and its speed, and stops where it must.

Car following is the Intelligent Driver Model (Treiber, Hennecke, Helbing 2000), in one dimension along the path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from examples.traffic_world.palette import VehicleType
from examples.traffic_world.paths import Path

STEP_S = 0.05
_HEADWAY_S = 1.0
_STANDSTILL_GAP_M = 2.0
_ACCELERATION = 2.0
_COMFORTABLE_BRAKING = 3.0
_HARDEST_BRAKING = 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Keep the nose of the vehicle before a point for a while."""

    at_m: float
    until_s: float = math.inf
    from_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Braking:
    """Brake firmly for a while, whatever is ahead."""

    from_s: float
    until_s: float
    deceleration: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one driver does in one course of events, beyond keeping lane and gap."""

    stops: tuple[Stop, ...] = ()
    brakings: tuple[Braking, ...] = ()
    inattentive_s: float = 0.0
    """Until then neither the vehicle ahead nor anything else is heeded."""
    swerve: tuple[float, float, float] | None = None
    """Metres to the left, time of the largest offset, duration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """A vehicle at the first frame."""

    kind: VehicleType
    colour: str
    path: Path
    start_m: float
    """Of the centre, along the path."""
    speed: float
    cruise: float
    """The speed that the driver wants."""


@dataclass(slots=True, kw_only=True)
class Motion:
    """A vehicle over time, at steps of STEP_S or at frames."""

    position: np.ndarray
    """[T, 2]."""
    heading: np.ndarray
    """[T]."""
    speed: np.ndarray
    """[T]."""
    braking: np.ndarray
    """[T] bool: the brake lights are on."""
    sliding: np.ndarray
    """[T] bool: the tyres leave marks."""


def drive(vehicles: list[Vehicle], plans: list[Plan], seconds: float) -> list[Motion]:
    """Let all drivers drive from the first frame on, at steps of STEP_S."""
    steps = round(seconds / STEP_S) + 1
    count = len(vehicles)
    leaders = [_leader(index, vehicles) for index in range(count)]
    where = [vehicle.start_m for vehicle in vehicles]
    speed = [vehicle.speed for vehicle in vehicles]
    distances, speeds, pushes = (np.zeros((count, steps)) for _ in range(3))
    for step in range(steps):
        time = step * STEP_S
        pushes_now = [
            _acceleration(index, leaders[index], vehicles, plans[index], where, speed, time) for index in range(count)
        ]
        for index, push in enumerate(pushes_now):
            distances[index, step], speeds[index, step], pushes[index, step] = where[index], speed[index], push
            faster = max(speed[index] + push * STEP_S, 0.0)
            where[index] += 0.5 * (speed[index] + faster) * STEP_S
            speed[index] = faster
    return [
        _motion(vehicle, plan, distances[index], speeds[index], pushes[index])
        for index, (vehicle, plan) in enumerate(zip(vehicles, plans, strict=True))
    ]


def _leader(index: int, vehicles: list[Vehicle]) -> int | None:
    """The next vehicle ahead on the lane; nobody overtakes, so it stays the same."""
    me = vehicles[index]
    ahead = [
        (vehicle.start_m, other)
        for other, vehicle in enumerate(vehicles)
        if vehicle.path.lane == me.path.lane and vehicle.start_m > me.start_m
    ]
    return min(ahead)[1] if ahead else None


def _acceleration(
    index: int,
    leader: int | None,
    vehicles: list[Vehicle],
    plan: Plan,
    where: list[float],
    speed: list[float],
    time: float,
) -> float:
    """What the driver asks of the vehicle now, in m/s²."""
    for braking in plan.brakings:
        if braking.from_s <= time < braking.until_s:
            return -braking.deceleration
    me, mine = vehicles[index], speed[index]
    if time < plan.inattentive_s:
        return 0.0
    nose = where[index] + me.kind.length / 2
    wanted = me.cruise
    if me.path.turn is not None:
        begin, slow = me.path.turn
        wanted = min(wanted, math.sqrt(slow * slow + 2 * 2.2 * max(begin - where[index], 0.0)))
    push = _ACCELERATION * (1 - (mine / max(wanted, 0.1)) ** 4)
    push = max(push, -_COMFORTABLE_BRAKING)
    if leader is not None:
        gap = where[leader] - vehicles[leader].kind.length / 2 - nose
        push = min(push, _following(mine, mine - speed[leader], gap, wanted, _STANDSTILL_GAP_M))
    for stop in plan.stops:
        gap = stop.at_m - nose
        if stop.from_s <= time < stop.until_s and gap > -0.6:
            push = min(push, _following(mine, mine, gap + 0.3, wanted, 0.3))
    return max(push, -_HARDEST_BRAKING)


def _following(speed: float, closing: float, gap: float, wanted: float, standstill: float) -> float:
    """The model's acceleration behind something that is `gap` metres ahead."""
    braking = math.sqrt(_ACCELERATION * _COMFORTABLE_BRAKING)
    headway = _HEADWAY_S if standstill > 1 else 0.15
    desired = standstill + max(speed * headway + speed * closing / (2 * braking), 0.0)
    return _ACCELERATION * (1 - (speed / max(wanted, 0.1)) ** 4 - (desired / max(gap, 0.1)) ** 2)


def _motion(vehicle: Vehicle, plan: Plan, distance: np.ndarray, speed: np.ndarray, push: np.ndarray) -> Motion:
    position, heading = vehicle.path.at(distance)
    if plan.swerve is not None:
        left, middle, duration = plan.swerve
        phase = np.clip((np.arange(len(distance)) * STEP_S - middle) / duration, -1, 1)
        offset = left * 0.5 * (1 + np.cos(math.pi * phase))
        position = position + offset[:, None] * np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
        heading = heading + np.arctan2(np.gradient(offset, STEP_S), np.maximum(speed, 2.0))
    braking = (push < -0.9) | ((speed < 0.2) & (push < 0.3))
    braking[0] = speed[0] < 0.2  # the first frame looks the same whatever follows
    sliding = (push < -6.4) & (speed > 0.5)
    return Motion(position=position, heading=heading, speed=speed, braking=braking, sliding=sliding)


def interpolated(motion: Motion, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions [T, 2], headings [T] and speeds [T]."""
    steps = np.arange(len(motion.speed)) * STEP_S
    position = np.stack([np.interp(times, steps, motion.position[:, axis]) for axis in (0, 1)], axis=-1)
    return position, np.interp(times, steps, motion.heading), np.interp(times, steps, motion.speed)
