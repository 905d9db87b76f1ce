"""The shape of each vehicle type: convex faces in the order in which they are painted.

Vehicle axes: x ahead, y to the left, z up, the origin on the ground below the centre.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from examples.traffic_world.palette import VEHICLE_TYPES

BODY, GLASS, DARK, TYRE, RIM, HEAD, TAIL, INDICATOR, CARGO = range(9)
"""Materials."""
MATERIAL_COLOURS = np.array(
    [
        (0, 0, 0),  # the vehicle's own colour
        (46, 56, 68),
        (44, 45, 48),
        (26, 26, 28),
        (128, 130, 134),
        (226, 228, 224),
        (120, 22, 22),
        (178, 112, 40),
        (206, 208, 206),
    ],
    dtype=float,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Faces of one vehicle."""

    vertices: np.ndarray
    """[N, 3]."""
    faces: tuple[tuple[int, int], ...]
    """First vertex and number of vertices of each face."""
    centres: np.ndarray
    """[F, 3]."""
    normals: np.ndarray
    """[F, 3], outwards."""
    materials: np.ndarray
    """[F]."""
    orders: tuple[tuple[int, ...], tuple[int, ...]]
    """Order of painting for a camera behind and for one ahead of the vehicle."""


@dataclass(slots=True, kw_only=True)
class _Shape:
    """A mesh in the making."""

    points: list[np.ndarray] = field(default_factory=list)
    materials: list[int] = field(default_factory=list)
    outwards: list[np.ndarray] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    part: int = 0
    """Which part the next faces belong to: parts 1 and 2 stand behind each other, 2 is the front one."""

    def face(self, points: np.ndarray, material: int, centre: np.ndarray) -> np.ndarray:
        """Add a face that looks away from `centre`."""
        normal = np.cross(points[1] - points[0], points[2] - points[1])
        normal = normal / np.linalg.norm(normal)
        self.outwards.append(normal if normal @ (points.mean(0) - centre) > 0 else -normal)
        self.points.append(points)
        self.materials.append(material)
        self.parts.append(self.part)
        return points

    def inset(self, quad: np.ndarray, u: tuple[float, float], v: tuple[float, float], material: int) -> None:
        """Add a part of the last face, `quad` [4, 3] in the order bottom, bottom, top, top."""
        bottom, top = quad[0:2], quad[3:1:-1]
        rows = [bottom + (top - bottom) * share for share in v]
        points = np.array(
            [row[0] + (row[1] - row[0]) * share for row, ends in ((rows[0], u), (rows[1], u[::-1])) for share in ends]
        )
        self.outwards.append(self.outwards[-1])
        self.points.append(points)
        self.materials.append(material)
        self.parts.append(self.part)

    def prism(self, plan: np.ndarray, low: float, high: np.ndarray, material: int, top: int | None = None) -> None:
        """Walls over a convex plan [N, 2] from one height to others [N], and a lid."""
        centre = np.array([*plan.mean(0), (low + float(high.mean())) / 2])
        count = len(plan)
        for here in range(count):
            there = (here + 1) % count
            self.face(
                np.array(
                    [(*plan[here], low), (*plan[there], low), (*plan[there], high[there]), (*plan[here], high[here])]
                ),
                material,
                centre,
            )
        lid = np.concatenate([plan, high[:, None]], axis=1)
        self.face(lid, material if top is None else top, centre)

    def done(self) -> Mesh:
        starts = np.cumsum([0, *(len(points) for points in self.points[:-1])])
        return Mesh(
            vertices=np.concatenate(self.points),
            faces=tuple((int(start), len(points)) for start, points in zip(starts, self.points, strict=True)),
            centres=np.array([points.mean(0) for points in self.points]),
            normals=np.array(self.outwards),
            materials=np.array(self.materials),
            orders=(self._order((0, 2, 1, 3)), self._order((0, 1, 2, 3))),
        )

    def _order(self, parts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(index for part in parts for index, own in enumerate(self.parts) if own == part)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Profile:
    """Side view of a car, in shares of its length (0 in the middle) and height."""

    cabin: tuple[float, float]
    """Rear and front of the cabin where it meets the body."""
    roof: tuple[float, float]
    belt: float
    """Height of the body below the windows."""
    nose: float
    """Height at the front end."""
    tail: float


_PROFILES = {
    "sedan": _Profile(cabin=(-0.41, 0.24), roof=(-0.25, 0.05), belt=0.64, nose=0.50, tail=0.60),
    "taxi": _Profile(cabin=(-0.41, 0.24), roof=(-0.25, 0.05), belt=0.62, nose=0.48, tail=0.58),
    "hatchback": _Profile(cabin=(-0.48, 0.27), roof=(-0.38, 0.06), belt=0.62, nose=0.50, tail=0.62),
    "SUV": _Profile(cabin=(-0.485, 0.25), roof=(-0.43, 0.08), belt=0.60, nose=0.54, tail=0.60),
    "pickup": _Profile(cabin=(-0.10, 0.28), roof=(-0.06, 0.12), belt=0.58, nose=0.53, tail=0.56),
    "van": _Profile(cabin=(-0.495, 0.44), roof=(-0.485, 0.25), belt=0.55, nose=0.44, tail=0.55),
}


@cache
def mesh(kind: str) -> Mesh:
    """The faces of a vehicle type."""
    size = VEHICLE_TYPES[kind]
    shape = _Shape()
    if kind in _PROFILES:
        _car(shape, kind, _PROFILES[kind], size.length, size.width, size.height)
    elif kind == "bus":
        _bus(shape, size.length, size.width, size.height)
    else:
        _truck(shape, size.length, size.width, size.height)
    return shape.done()


def _plan(rear: float, front: float, width: float, bevel_rear: float, bevel_front: float) -> np.ndarray:
    """A rectangle with cut corners [8, 2], counterclockwise from the right rear."""
    half = width / 2
    return np.array(
        [
            (rear, -half + bevel_rear),
            (rear + bevel_rear, -half),
            (front - bevel_front * 1.4, -half),
            (front, -half + bevel_front),
            (front, half - bevel_front),
            (front - bevel_front * 1.4, half),
            (rear + bevel_rear, half),
            (rear, half - bevel_rear),
        ]
    )


def _car(shape: _Shape, kind: str, profile: _Profile, length: float, width: float, height: float) -> None:
    half = length / 2
    plan = _plan(-half, half, width, 0.22, 0.32)
    belt, nose, tail = (share * height for share in (profile.belt, profile.nose, profile.tail))
    shape.prism(_plan(-half, half, width, 0.22, 0.32), 0.22, np.full(8, 0.36), DARK)
    ends = np.array([profile.cabin[0] * length, profile.cabin[1] * length])
    heights = np.interp(plan[:, 0], [-half, ends[0], ends[1], half], [tail, belt, belt, nose])
    heights[[0, 7]] -= 0.05
    heights[[3, 4]] -= 0.06
    shape.prism(plan, 0.34, heights, BODY)
    if kind == "pickup":
        bed = np.array([(-half + 0.2, -0.42), (ends[0] - 0.05, -0.42), (ends[0] - 0.05, 0.42), (-half + 0.2, 0.42)])
        bed[:, 1] *= width
        shape.face(np.concatenate([bed, np.full((4, 1), tail + 0.02)], axis=1), DARK, np.zeros(3))
    # The hood is a face of its own: it slopes, so it is shaded differently from the lid.
    hood = np.array(
        [(ends[1], 0.44 * width), (ends[1], -0.44 * width), (half - 0.1, -0.36 * width), (half - 0.1, 0.36 * width)]
    )
    rise = np.array([belt, belt, nose - 0.02, nose - 0.02])
    shape.face(np.concatenate([hood, rise[:, None] + 0.02], axis=1), BODY, np.zeros(3))
    _wheels(shape, length, width, 0.34 if kind not in ("SUV", "pickup") else 0.38)
    _lights(shape, length, width, nose * 0.86, tail * 0.86)
    _cabin(shape, kind, profile, length, width, height, belt)
    if kind == "taxi":
        sign = np.array([(-0.55, -0.3), (-0.3, -0.3), (-0.3, 0.3), (-0.55, 0.3)])
        shape.prism(sign, height, np.full(4, height + 0.26), HEAD)


def _cabin(
    shape: _Shape, kind: str, profile: _Profile, length: float, width: float, height: float, belt: float
) -> None:
    """Windows under a narrower roof."""
    low_half, top_half = width * 0.465, width * (0.45 if kind == "van" else 0.385)
    (rear, front), (roof_rear, roof_front) = (
        (share[0] * length, share[1] * length) for share in (profile.cabin, profile.roof)
    )
    centre = np.array([(rear + front) / 2, 0, (belt + height) / 2])
    low = [(rear, -low_half), (front, -low_half), (front, low_half), (rear, low_half)]
    top = [(roof_rear, -top_half), (roof_front, -top_half), (roof_front, top_half), (roof_rear, top_half)]
    for index in range(4):
        there = (index + 1) % 4
        quad = np.array([(*low[index], belt), (*low[there], belt), (*top[there], height), (*top[index], height)])
        shape.face(quad, BODY, centre)
        along = index in (0, 2)
        if not along:
            if kind == "van" and index == 3:
                shape.inset(quad, (0.1, 0.9), (0.35, 0.9), GLASS)
            else:
                shape.inset(quad, (0.05, 0.95), (0.06, 0.94), GLASS)
        elif kind == "van":
            spans = ((0.72, 0.93),)
            for u in spans:
                shape.inset(quad, u if index == 0 else (1 - u[1], 1 - u[0]), (0.15, 0.85), GLASS)
        else:
            middle = 0.5 if kind != "pickup" else 0.56
            shape.inset(quad, (0.07, middle - 0.03), (0.08, 0.86), GLASS)
            shape.inset(quad, (middle + 0.03, 0.93), (0.08, 0.86), GLASS)
    shape.face(np.array([(*point, height) for point in top]), BODY, centre)


def _bus(shape: _Shape, length: float, width: float, height: float) -> None:
    half = length / 2
    shape.prism(_plan(-half, half, width, 0.15, 0.2), 0.3, np.full(8, height), BODY)
    for side in (-1, 1):
        y = side * (width / 2 + 0.01)
        _plate(shape, np.array([(-half + 0.3, y), (half - 0.3, y)]), 1.5, 2.5, GLASS, (0.0, side))
        _plate(shape, np.array([(-half + 0.2, y), (half - 0.3, y)]), 0.3, 0.55, DARK, (0.0, side))
        for x in np.arange(-half + 1.7, half - 1.0, 1.45):
            _plate(shape, np.array([(x - 0.07, y * 1.004), (x + 0.07, y * 1.004)]), 1.5, 2.5, BODY, (0.0, side))
    for end in (-1, 1):
        x = end * (half + 0.01)
        low = 1.3 if end > 0 else 1.7
        _plate(shape, np.array([(x, -0.44 * width), (x, 0.44 * width)]), low, 2.65, GLASS, (end, 0.0))
    _wheels(shape, length, width, 0.45)
    _lights(shape, length, width, 0.95, 1.15)


def _truck(shape: _Shape, length: float, width: float, height: float) -> None:
    half = length / 2
    split = half - 1.9
    shape.prism(_plan(-half, half - 0.2, width * 0.9, 0.05, 0.05), 0.35, np.full(8, 0.75), DARK)
    shape.part = 1
    shape.prism(_plan(-half, split - 0.15, width, 0.03, 0.03), 0.75, np.full(8, height), CARGO)
    shape.part = 2
    cab = _plan(split, half, width * 0.94, 0.06, 0.22)
    shape.prism(cab, 0.38, np.full(8, height * 0.83), BODY)
    _plate(shape, np.array([(half + 0.01, -0.38 * width), (half + 0.01, 0.38 * width)]), 1.35, 2.2, GLASS, (1.0, 0.0))
    for side in (-1, 1):
        y = side * (width * 0.47 + 0.01)
        _plate(shape, np.array([(split + 0.55, y), (half - 0.4, y)]), 1.4, 2.15, GLASS, (0.0, side))
    shape.part = 3
    _wheels(shape, length, width, 0.48)
    _lights(shape, length, width * 0.92, 0.8, 0.6)


def _plate(
    shape: _Shape, ends: np.ndarray, low: float, high: float, material: int, outwards: tuple[float, float]
) -> None:
    """An upright rectangle between two ground points [2, 2]."""
    quad = np.array([(*ends[0], low), (*ends[1], low), (*ends[1], high), (*ends[0], high)])
    shape.face(quad, material, quad.mean(0) - np.array([*outwards, 0.0]))


def _wheels(shape: _Shape, length: float, width: float, radius: float) -> None:
    angle = np.linspace(0, 2 * math.pi, 12, endpoint=False)
    for side in (-1, 1):
        for along in (0.31, -0.30):
            y = side * (width / 2 + 0.015)
            for size, material in ((radius, TYRE), (radius * 0.52, RIM)):
                points = np.stack(
                    [along * length + size * np.cos(angle), np.full(12, y), radius + size * np.sin(angle)], axis=-1
                )
                shape.face(points, material, points.mean(0) - np.array([0.0, side, 0.0]))


def _lights(shape: _Shape, length: float, width: float, front_z: float, rear_z: float) -> None:
    half = length / 2
    for side in (-1, 1):
        inner, outer = side * width * 0.16, side * width * 0.36
        _plate(shape, np.array([(half + 0.012, inner), (half + 0.012, outer)]), front_z - 0.16, front_z, HEAD, (1, 0))
        corner = np.array([(half + 0.012, outer), (half - 0.3, side * (width / 2 - 0.02))])
        _plate(shape, corner, front_z - 0.16, front_z, INDICATOR, (1, side))
        inner, outer = side * width * 0.18, side * width * 0.38
        _plate(shape, np.array([(-half - 0.012, inner), (-half - 0.012, outer)]), rear_z - 0.24, rear_z, TAIL, (-1, 0))
        corner = np.array([(-half - 0.012, outer), (-half + 0.22, side * (width / 2 + 0.01))])
        _plate(shape, corner, rear_z - 0.24, rear_z, TAIL, (-1, side))
