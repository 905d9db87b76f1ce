"""The three places: what is painted on the ground and what stands around it.

The ground is a list of flat polygons from bottom to top, the surroundings are solids that can hide vehicles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

Colour = tuple[float, float, float]
FAR_M = 140.0
HORIZON_M = 2000.0
LANE_M = 3.5
HIGHWAY_LANE_M = 3.6
STOP_LINE_M = 7.6
"""Distance of the stop lines from the middle of the intersection."""
ZEBRA_HALF_M = 2.0
"""Half the width of the zebra crossing along the street."""

ASPHALT: Colour = (92, 94, 98)
WORN: Colour = (99, 101, 105)
PAVEMENT: Colour = (158, 154, 146)
KERB: Colour = (186, 183, 176)
GRASS: Colour = (98, 128, 72)
LINE: Colour = (226, 226, 220)
YELLOW: Colour = (214, 178, 60)
_FACADES: tuple[Colour, ...] = ((176, 138, 112), (196, 184, 160), (150, 152, 160), (168, 108, 88), (206, 200, 190))
_CROWNS: tuple[Colour, ...] = ((64, 104, 52), (78, 116, 58), (88, 112, 50), (58, 94, 60))


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A flat polygon in space."""

    points: np.ndarray
    """[N, 3]."""
    colour: Colour
    normal: tuple[float, float, float] = (0.0, 0.0, 1.0)
    lit: bool = False
    """Shines at night."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solid:
    """Something that stands on the ground and hides what is behind it."""

    footprint: np.ndarray
    """[N, 2], convex."""
    faces: tuple[Face, ...] = ()
    balls: tuple[tuple[float, float, float, float, Colour], ...] = ()
    """Leaves: x, y, z, radius, colour."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A layout without traffic."""

    ground: list[tuple[np.ndarray, Colour]] = field(default_factory=list)
    """Polygons [N, 2], from bottom to top."""
    solids: list[Solid] = field(default_factory=list)
    lamps: list[tuple[float, float]] = field(default_factory=list)
    """Where street lamps light the ground."""

    def rectangle(self, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        """Paint a rectangle along the axes; long ones in pieces, so that perspective stays exact."""
        self.ground.append((np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), colour))


def intersection(rng: np.random.Generator) -> Place:
    """Two crossing streets with stop lines and crosswalks at each arm."""
    place = Place()
    green = rng.random() < 0.4
    place.rectangle(-HORIZON_M, HORIZON_M, -HORIZON_M, HORIZON_M, GRASS if green else PAVEMENT)
    half = LANE_M
    for along_x in (True, False):
        _strip(place, along_x, half + 3.4, PAVEMENT)
    for along_x in (True, False):
        _strip(place, along_x, half + 0.22, KERB)
    for sx in (-1, 1):
        for sy in (-1, 1):
            place.ground.append((_fillet(sx, sy, half + 0.2, 3.0), KERB))
    for along_x in (True, False):
        _strip(place, along_x, half, ASPHALT)
    for sx in (-1, 1):
        for sy in (-1, 1):
            place.ground.append((_fillet(sx, sy, half, 3.0), ASPHALT))
    for quarter in range(4):
        _arm_markings(place, quarter, half)
    for sx in (-1, 1):
        for sy in (-1, 1):
            _corner(place, rng, sx, sy, green)
    return place


def highway(rng: np.random.Generator) -> Place:
    """Two carriageways with a guard rail between them; the main one, of three lanes, lies at negative y."""
    place = Place()
    place.rectangle(-HORIZON_M, HORIZON_M, -HORIZON_M, HORIZON_M, GRASS)
    width, lane = 3 * HIGHWAY_LANE_M, HIGHWAY_LANE_M
    place.rectangle(-FAR_M, FAR_M, -width - 3.6, -0.9, (104, 105, 107))
    place.rectangle(-FAR_M, FAR_M, -width - 1.5, -1.2, ASPHALT)
    place.rectangle(-FAR_M, FAR_M, 0.9, 2 * lane + 3.4, (104, 105, 107))
    place.rectangle(-FAR_M, FAR_M, 1.2, 2 * lane + 1.6, ASPHALT)
    for y, colour in ((-1.45, YELLOW), (-1.55 - width, LINE), (1.45, YELLOW), (1.55 + 2 * lane, LINE)):
        place.rectangle(-FAR_M, FAR_M, y - 0.09, y + 0.09, colour)
    for y in (-1.5 - lane, -1.5 - 2 * lane, 1.5 + lane):
        for x in np.arange(-90, 90, 7.5):
            place.rectangle(x, x + 3.0, y - 0.09, y + 0.09, LINE)
    _rail(place, 0.0)
    far = 2 * lane + 4.4
    if rng.random() < 0.6:
        _rail(place, far)
    _rail(place, -width - 4.6)
    for x in np.arange(-75, 90, rng.uniform(24, 32)):
        _lamp(place, x + rng.uniform(-2, 2), far + 1.2, (0.0, -1.0))
        place.lamps += [(x, -width * 0.3), (x, -width * 0.75), (x, far / 2)]
    for x in np.arange(-70, 90, 9):
        if rng.random() < 0.75:
            _tree(place, rng, x + rng.uniform(-3, 3), far + rng.uniform(7, 16), rng.uniform(0.9, 1.5))
        if rng.random() < 0.5:
            _tree(place, rng, x + rng.uniform(-3, 3), -width - rng.uniform(30, 40), rng.uniform(0.9, 1.4))
    if rng.random() < 0.5:
        for x in (rng.uniform(-50, -10), rng.uniform(0, 50)):
            _building(place, rng, x, x + rng.uniform(16, 28), far + 20, far + 30, rng.uniform(6, 11))
    return place


def crosswalk(rng: np.random.Generator) -> Place:
    """A street of two lanes with a zebra crossing at x = 0."""
    place = Place()
    half = LANE_M
    green = rng.random() < 0.5
    place.rectangle(-HORIZON_M, HORIZON_M, -HORIZON_M, HORIZON_M, GRASS if green else (148, 145, 138))
    _strip(place, True, half + 3.6, PAVEMENT)
    _strip(place, True, half + 0.25, KERB)
    _strip(place, True, half, ASPHALT)
    for side in (-1, 1):
        for x in np.arange(5.5, 90, 6.0) * side:
            place.rectangle(x - 1.3, x + 1.3, -0.08, 0.08, LINE)
        place.rectangle(*sorted((side * 3.2, side * 3.55)), *sorted((0.15 * -side, half * side)), LINE)
        place.rectangle(-FAR_M, FAR_M, *sorted((side * (half - 0.3), side * (half - 0.18))), LINE)
    for y in np.arange(-half + 0.35, half - 0.3, 0.98):
        place.rectangle(-ZEBRA_HALF_M, ZEBRA_HALF_M, y, y + 0.52, LINE)
    for side in (-1, 1):
        for x in np.arange(-66, 80, rng.uniform(17, 23)):
            if side > 0:
                _lamp(place, x + 6, side * (half + 3.1), (0.0, -1.0))
                place.lamps.append((x + 6, side * (half - 2.0)))
        tall = rng.uniform(5, 9)
        x = -70.0
        while x < 70:
            wide = rng.uniform(9, 17)
            if rng.random() < (0.45 if green else 0.85):
                y = sorted((side * (half + 9.5), side * (half + 19)))
                _building(place, rng, x, x + wide - 0.6, y[0], y[1], tall + rng.uniform(-1, 3))
            else:
                _tree(place, rng, x + wide / 2, side * (half + rng.uniform(8.0, 11)), rng.uniform(0.8, 1.2))
            x += wide
        for x in np.arange(-60, 60, 12):
            if rng.random() < 0.4 and abs(x) > 5:
                _tree(place, rng, x + rng.uniform(-3, 3), side * (half + 5.2), rng.uniform(0.5, 0.75))
    return place


def skyline(place: Place, rng: np.random.Generator) -> None:
    """A ring of woods and houses in the distance, so that no place ends at a bare horizon."""
    for angle in np.arange(0, 2 * math.pi, 2 * math.pi / 40):
        x, y = 118 * math.cos(angle), 118 * math.sin(angle)
        wide, high = rng.uniform(8, 12), rng.uniform(4.0, 7.0)
        wood = rng.random() < 0.6
        colour = _CROWNS[rng.integers(len(_CROWNS))] if wood else _FACADES[rng.integers(len(_FACADES))]
        if not wood:
            high *= 1.7
        faces = _box(x - wide, x + wide, y - wide, y + wide, 0.0, high, colour)
        place.solids.append(Solid(footprint=_around(x, y, wide), faces=tuple(faces)))


PLACES = {"intersection": intersection, "highway": highway, "crosswalk": crosswalk}


def _strip(place: Place, along_x: bool, half: float, colour: Colour) -> None:
    """A street's width over the whole scene."""
    if along_x:
        place.rectangle(-FAR_M, FAR_M, -half, half, colour)
    else:
        place.rectangle(-half, half, -FAR_M, FAR_M, colour)


def _fillet(sx: int, sy: int, half: float, radius: float) -> np.ndarray:
    """The rounded inside of a street corner."""
    angle = np.linspace(0, math.pi / 2, 8)
    arc = np.stack([half + radius - radius * np.sin(angle), half + radius - radius * np.cos(angle)], axis=-1)
    return np.concatenate([[(half - 0.3, half - 0.3)], arc]) * (sx, sy)


def _arm_markings(place: Place, quarter: int, half: float) -> None:
    """Zebra, stop line and centre line of one arm."""
    cos, sin = round(math.cos(quarter * math.pi / 2)), round(math.sin(quarter * math.pi / 2))
    turn = np.array([(cos, sin), (-sin, cos)])

    def paint(x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        place.ground.append((np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ turn, colour))

    for y in np.arange(-half + 0.4, half - 0.3, 0.98):
        paint(4.4, 6.5, y, y + 0.5, LINE)
    # On this arm the lane that enters the intersection lies at positive y.
    paint(STOP_LINE_M - 0.5, STOP_LINE_M - 0.1, 0.1, half, LINE)
    paint(STOP_LINE_M - 0.5, FAR_M, -0.16, -0.05, YELLOW)
    paint(STOP_LINE_M - 0.5, FAR_M, 0.05, 0.16, YELLOW)


def _corner(place: Place, rng: np.random.Generator, sx: int, sy: int, green: bool) -> None:
    """What stands at one of the four corners."""
    near = LANE_M + 7.5
    if rng.random() < (0.35 if green else 0.75):
        x = sorted((sx * (near + rng.uniform(0, 3)), sx * (near + rng.uniform(13, 22))))
        y = sorted((sy * (near + rng.uniform(0, 3)), sy * (near + rng.uniform(13, 22))))
        _building(place, rng, x[0], x[1], y[0], y[1], rng.uniform(6, 11))
    else:
        for _ in range(3):
            _tree(place, rng, sx * (near + rng.uniform(1, 9)), sy * (near + rng.uniform(1, 9)), rng.uniform(0.8, 1.3))
    for along in (1, 2, 3):
        if rng.random() < 0.6:
            _tree(place, rng, sx * (near + 14 * along + rng.uniform(0, 6)), sy * (LANE_M + 6.0), rng.uniform(0.7, 1.1))
        if rng.random() < 0.6:
            _tree(place, rng, sx * (LANE_M + 6.0), sy * (near + 14 * along + rng.uniform(0, 6)), rng.uniform(0.7, 1.1))
    _lamp(place, sx * (LANE_M + 2.8), sy * (LANE_M + 2.8), (-sx * 0.7, -sy * 0.7))
    place.lamps.append((sx * (LANE_M + 0.6), sy * (LANE_M + 0.6)))


def _box(
    x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: Colour, top: Colour | None = None
) -> list[Face]:
    """Four walls and a roof."""
    walls = (
        ((x0, y0), (x1, y0), (0.0, -1.0)),
        ((x1, y0), (x1, y1), (1.0, 0.0)),
        ((x1, y1), (x0, y1), (0.0, 1.0)),
        ((x0, y1), (x0, y0), (-1.0, 0.0)),
    )
    faces = [
        Face(
            points=np.array([(*a, z0), (*b, z0), (*b, z1), (*a, z1)]),
            colour=colour,
            normal=(normal[0], normal[1], 0.0),
        )
        for a, b, normal in walls
    ]
    faces.append(Face(points=np.array([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)]), colour=top or colour))
    return faces


def _building(
    place: Place, rng: np.random.Generator, x0: float, x1: float, y0: float, y1: float, height: float
) -> None:
    """A house with rows of windows."""
    facade = _FACADES[rng.integers(len(_FACADES))]
    faces = _box(x0, x1, y0, y1, 0.0, height, facade, (120, 116, 112))
    windows: list[Face] = []
    for wall in faces[:4]:
        start, edge = wall.points[0, :2], wall.points[1, :2] - wall.points[0, :2]
        count = max(int(np.linalg.norm(edge) // 3.4), 1)
        outside = np.array(wall.normal[:2]) * 0.03
        for floor in np.arange(1.0, height - 2.0, 3.1):
            for index in range(count):
                a = start + edge * (index + 0.24) / count + outside
                b = start + edge * (index + 0.76) / count + outside
                points = np.array([(*a, floor), (*b, floor), (*b, floor + 1.6), (*a, floor + 1.6)])
                lit = bool(rng.random() < 0.3)
                windows.append(Face(points=points, colour=(74, 88, 104), normal=wall.normal, lit=lit))
    footprint = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    place.solids.append(Solid(footprint=footprint, faces=(*faces, *windows)))


def _tree(place: Place, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    """A trunk and a crown of three balls."""
    crown = _CROWNS[rng.integers(len(_CROWNS))]
    trunk = _box(x - 0.16, x + 0.16, y - 0.16, y + 0.16, 0.0, 2.6 * size, (94, 76, 60))
    balls = []
    for angle in rng.uniform(0, 2 * math.pi) + np.arange(3) * 2.1:
        tone = rng.uniform(0.88, 1.12)
        balls.append(
            (
                x + 0.75 * size * math.cos(angle),
                y + 0.75 * size * math.sin(angle),
                3.4 * size,
                1.35 * size,
                (crown[0] * tone, crown[1] * tone, crown[2] * tone),
            )
        )
    balls.append((x, y, 4.3 * size, 1.3 * size, (crown[0] * 1.1, crown[1] * 1.1, crown[2] * 1.05)))
    place.solids.append(Solid(footprint=_around(x, y, 0.5), faces=tuple(trunk), balls=tuple(balls)))


def _lamp(place: Place, x: float, y: float, towards: tuple[float, float]) -> None:
    """A street lamp with an arm."""
    grey = (112, 116, 120)
    faces = _box(x - 0.09, x + 0.09, y - 0.09, y + 0.09, 0.0, 6.4, grey)
    tip = np.array([x + towards[0] * 1.8, y + towards[1] * 1.8])
    side = np.array([-towards[1], towards[0]]) * 0.16
    arm = np.array([(x, y, 6.4), (*tip, 6.5), (*tip, 6.65), (x, y, 6.55)])
    head = np.array([(*(tip - side), 6.5), (*(tip + side), 6.5), (*(tip + side), 6.72), (*(tip - side), 6.72)])
    faces += [Face(points=arm, colour=grey), Face(points=head, colour=(232, 228, 206), lit=True)]
    place.solids.append(Solid(footprint=_around(x, y, 0.3), faces=tuple(faces)))


def _rail(place: Place, y: float) -> None:
    """A guard rail along x, in pieces: each of them hides what is behind it."""
    grey = (176, 180, 184)
    for x in np.arange(-88, 88, 8.0):
        faces = []
        for post in (x + 1, x + 5):
            faces += _box(post - 0.08, post + 0.08, y - 0.05, y + 0.05, 0.0, 0.55, (120, 122, 124))[:4]
        faces += _box(x, x + 8.0, y - 0.08, y + 0.08, 0.45, 0.8, grey)
        footprint = np.array([(x, y - 0.08), (x + 8, y - 0.08), (x + 8, y + 0.08), (x, y + 0.08)])
        place.solids.append(Solid(footprint=footprint, faces=tuple(faces)))


def _around(x: float, y: float, half: float) -> np.ndarray:
    """A square [4, 2]."""
    return np.array([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)])
