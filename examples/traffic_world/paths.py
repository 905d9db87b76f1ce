"""Centre lines of lanes, by distance along them. Traffic keeps to the right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

REACH_M = 140.0
"""How far lanes run from the middle of the scene."""
_STEP_M = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A way through the scene."""

    lane: str
    """Vehicles on paths of the same lane follow one another."""
    arc: np.ndarray
    """[N] distance along the path, increasing; 0 is abreast of the middle of the scene."""
    points: np.ndarray
    """[N, 2]."""
    heading: np.ndarray
    """[N], unwrapped."""
    turn: tuple[float, float] | None = None
    """Where a turn begins and how fast it is taken."""
    manoeuvre: str = "straight"
    """straight, right or left."""

    def at(self, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [T, 2] and headings [T] at distances [T]."""
        position = np.stack([np.interp(distance, self.arc, self.points[:, axis]) for axis in (0, 1)], axis=-1)
        return position, np.interp(distance, self.arc, self.heading)


def straight(lane: str, heading: float, right_m: float) -> Path:
    """A straight lane whose centre runs `right_m` to the right of the middle of the scene."""
    arc = np.array([-REACH_M, REACH_M])
    ahead, right = _axes(heading)
    return Path(lane=lane, arc=arc, points=right * right_m + arc[:, None] * ahead, heading=np.full(2, heading))


def turning(lane: str, heading: float, right_m: float, *, side: str, radius_m: float, speed: float) -> Path:
    """A lane that turns right or left by a quarter circle into the crossing road."""
    sign = 1.0 if side == "right" else -1.0
    ahead, right = _axes(heading)
    begin = -sign * right_m - radius_m
    centre = ahead * begin + right * (right_m + sign * radius_m)
    quarter = radius_m * math.pi / 2
    arc = np.arange(-REACH_M, begin + quarter + REACH_M, _STEP_M)
    angle = np.clip((arc - begin) / radius_m, 0, math.pi / 2)
    bend = centre - sign * right * radius_m * np.cos(angle)[:, None] + ahead * radius_m * np.sin(angle)[:, None]
    before, after = np.minimum(arc - begin, 0), np.maximum(arc - begin - quarter, 0)
    points = bend + before[:, None] * ahead + after[:, None] * sign * right
    return Path(lane=lane, arc=arc, points=points, heading=heading - sign * angle, turn=(begin, speed), manoeuvre=side)


def _axes(heading: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors ahead and to the right."""
    return np.array([math.cos(heading), math.sin(heading)]), np.array([math.sin(heading), -math.cos(heading)])
