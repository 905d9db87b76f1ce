"""The still part of a clip, painted once: ground, shadows, houses, trees, sky."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from examples.traffic_world.camera import Camera, cut_to_reach
from examples.traffic_world.lighting import Lighting
from examples.traffic_world.roads import Place, Solid

SHIFT = 4
"""Bits of sub-pixel precision in cv2's drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """The still picture, at the size of the drawing canvas."""

    picture: np.ndarray
    """uint8 [H, W, 3]."""
    owner: np.ndarray
    """uint8 [H, W]: which solid a pixel shows, counted from 1; 0 is the ground or the sky."""
    solids: tuple[Solid, ...]


def fill(canvas: np.ndarray, points: np.ndarray, colour: np.ndarray | tuple[float, ...]) -> None:
    """Fill a convex polygon [N, 2], antialiased."""
    points = cut_to_reach(points)
    if len(points) < 3:
        return
    fixed = np.round(points * (1 << SHIFT)).astype(np.int32)
    cv2.fillConvexPoly(canvas, fixed, [float(part) for part in colour], cv2.LINE_AA, SHIFT)


def flat(points: np.ndarray, height: float = 0.0) -> np.ndarray:
    """Ground points [N, 2] as world points [N, 3]."""
    return np.concatenate([points, np.full((len(points), 1), height)], axis=1)


def paint_background(rng: np.random.Generator, place: Place, camera: Camera, light: Lighting) -> Background:
    """Paint a place as the camera sees it."""
    canvas = np.zeros((camera.height, camera.width, 3), dtype=np.uint8)
    for polygon, colour in place.ground:
        seen = camera.project_polygon(flat(polygon))
        if len(seen) > 2 and _touches(seen, camera):
            fill(canvas, seen, colour)
    canvas = _light_ground(rng, canvas, place, camera, light)
    owner = np.zeros(canvas.shape[:2], dtype=np.uint8)
    distances = [float(np.linalg.norm(solid.footprint.mean(0) - camera.position[:2])) for solid in place.solids]
    solids = [place.solids[index] for index in np.argsort(distances)[::-1]][-254:]
    for number, solid in enumerate(solids, start=1):
        _paint_solid(canvas, owner, number, solid, camera, light)
    return Background(picture=canvas, owner=owner, solids=tuple(solids))


def cast_shadow(footprint: np.ndarray, height: float, light: Lighting) -> np.ndarray:
    """The ground [M, 2] that a block over a footprint [N, 2] darkens."""
    if not light.sun.any():
        return footprint
    reach = -light.sun_direction[:2] / light.sun_direction[2] * height
    both = np.concatenate([footprint, footprint + reach]).astype(np.float32)
    return cv2.convexHull(both).reshape(-1, 2).astype(float)


def _touches(points: np.ndarray, camera: Camera) -> bool:
    low, high = points.min(0), points.max(0)
    return bool((high > 0).all() and low[0] < camera.width and low[1] < camera.height)


def _light_ground(
    rng: np.random.Generator, canvas: np.ndarray, place: Place, camera: Camera, light: Lighting
) -> np.ndarray:
    """Light, wetness, haze and sky over the bare colours of the ground."""
    size = (camera.width, camera.height)
    factor = 3
    small = Camera(
        position=camera.position,
        axes=camera.axes,
        focal_px=camera.focal_px / factor,
        width=camera.width // factor,
        height=camera.height // factor,
    )
    ground, distance = small.ground()
    below = np.isfinite(distance)
    distance = np.where(below, distance, 1e4)
    gain = light.ambient + light.sun * light.sun_direction[2] + light.lamp_light(ground)[..., None] * light.lamps
    gain *= cv2.resize(rng.normal(1.0, 0.035, (6, 9)), (small.width, small.height), interpolation=cv2.INTER_CUBIC)[
        ..., None
    ]
    gain = cv2.resize(gain.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    shadow = _shadows(place, camera, light)
    gain *= shadow[..., None]
    lit = canvas.astype(np.float32) * gain
    far = cv2.resize(distance.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    if light.wet:
        mirror = np.clip(far / 110, 0.06, 0.42)[..., None]
        lit = lit * 0.82 * (1 - mirror) + light.sky.astype(np.float32) * mirror
    lit = light.fade(lit, far).astype(np.float32)
    rows = np.linspace(0, 1, camera.height, dtype=np.float32)[:, None, None]
    sky = light.sky * (1 - np.clip(rows * 4, 0, 1)) + light.haze * np.clip(rows * 4, 0, 1)
    mask = cv2.resize(below.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[..., None]
    return np.clip(lit * mask + sky * (1 - mask), 0, 255).astype(np.uint8)


def _shadows(place: Place, camera: Camera, light: Lighting) -> np.ndarray:
    """Factor [H, W] on the ground's light: 1 away from solids."""
    mask = np.full((camera.height, camera.width), 255, dtype=np.uint8)
    depth = 105 if light.sun.any() else 185
    for solid in place.solids:
        height = max((float(face.points[:, 2].max()) for face in solid.faces), default=0.0)
        shapes = (
            [cast_shadow(solid.footprint, min(height, 12.0), light)] if len(solid.faces) > 5 or not solid.balls else []
        )
        for x, y, z, radius, _ in solid.balls[:3]:
            angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
            offset = -light.sun_direction[:2] / light.sun_direction[2] * z if light.sun.any() else np.zeros(2)
            shapes.append(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=-1) + offset)
        for shape in shapes:
            seen = camera.project_polygon(flat(shape))
            if len(seen) > 2 and _touches(seen, camera):
                fill(mask, seen, (depth,))
    return cv2.GaussianBlur(mask, (0, 0), 3.0).astype(np.float32) / 255


def _paint_solid(
    canvas: np.ndarray, owner: np.ndarray, number: int, solid: Solid, camera: Camera, light: Lighting
) -> None:
    lamp = float(light.lamp_light(solid.footprint.mean(0)))
    night = light.lamps.any()
    for face in solid.faces:
        middle = face.points.mean(0)
        towards = camera.position - middle
        if face.normal != (0.0, 0.0, 1.0) and towards @ np.array(face.normal) <= 0:
            continue
        seen = camera.project_polygon(face.points)
        if len(seen) < 3 or not _touches(seen, camera):
            continue
        colour = np.array([face.colour], dtype=float)
        if face.lit and night:
            shaded = np.array([(255.0, 214.0, 146.0)])
        else:
            shaded = light.shade(colour, np.array([face.normal]), min(lamp + 0.15, 0.9))
        shaded = np.clip(light.fade(shaded, float(np.linalg.norm(towards)))[0], 0, 255)
        fill(canvas, seen, shaded)
        cv2.fillConvexPoly(owner, cut_to_reach(seen).astype(np.int32), number)
    for x, y, z, radius, colour_rgb in solid.balls:
        centre, depth = camera.project(np.array([(x, y, z)]))
        if depth[0] < 2:
            continue
        size = radius * camera.focal_px / depth[0]
        towards = camera.position - (x, y, z)
        for share, tone, up in ((1.0, 0.78, 0.0), (0.8, 0.95, 0.12), (0.5, 1.1, 0.25)):
            normal = np.array([[0.0, 0.0, 1.0]])
            shaded = light.shade(np.array([colour_rgb]) * tone, normal, min(lamp + 0.1, 0.8))
            shaded = np.clip(light.fade(shaded, float(np.linalg.norm(towards)))[0], 0, 255)
            middle = (int(centre[0, 0] * 16), int((centre[0, 1] - up * size) * 16))
            if max(abs(middle[0]), abs(middle[1])) < 30000 * 16:
                colour_list = [float(part) for part in shaded]
                cv2.circle(canvas, middle, int(size * share * 16), colour_list, -1, cv2.LINE_AA, SHIFT)
                cv2.circle(owner, middle, int(size * share * 16), number, -1, cv2.LINE_8, SHIFT)
