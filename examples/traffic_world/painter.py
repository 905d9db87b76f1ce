"""The moving part of a frame: vehicles, walkers, their shadows and their lights.

Everything is painted at SUPERSAMPLING times the size of the video and then averaged down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from examples.traffic_world import boxes
from examples.traffic_world.background import SHIFT, Background, cast_shadow, fill, flat
from examples.traffic_world.camera import NEAR_M, Camera, cut_to_reach
from examples.traffic_world.lighting import Lighting
from examples.traffic_world.palette import COLOURS, VehicleType
from examples.traffic_world.roads import Solid
from examples.traffic_world.vehicle_mesh import BODY, HEAD, INDICATOR, MATERIAL_COLOURS, TAIL, mesh

SUPERSAMPLING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """A vehicle in one frame."""

    kind: VehicleType
    colour: str
    position: np.ndarray
    """[2]."""
    heading: float
    braking: bool
    hazard: bool = False
    """The hazard lights are lit in this frame."""
    crushed: tuple[float, float] = (0.0, 0.0)
    """Metres lost at the front and at the rear."""


class Painter:
    """Paints frames of one clip: owns the canvas and knows the camera and the light."""

    def __init__(self, background: Background, camera: Camera, light: Lighting) -> None:
        self.background, self.camera, self.light = background, camera, light
        self.ground = background.picture.copy()
        """The still picture with what stays on the ground, such as skid marks."""
        self.canvas = self.ground.copy()
        height, width = camera.height // SUPERSAMPLING // 2, camera.width // SUPERSAMPLING // 2
        self.gain = np.zeros((height, width, 3), dtype=np.uint8)
        """Headlights on the road: a factor of brightness."""
        self.bloom = np.zeros((height, width, 3), dtype=np.uint8)
        """Light that shines into the lens."""

    def begin(self) -> None:
        """Start a frame."""
        np.copyto(self.canvas, self.ground)
        self.gain[:] = 0
        self.bloom[:] = 0

    def mark(self, points: np.ndarray, height: float = 0.0) -> None:
        """Darken a convex piece of the road [N, 2] for the rest of the clip."""
        seen, depth = self.camera.project(flat(points, height))
        if depth.min() > NEAR_M and self._inside(seen):
            u, v = np.clip(seen.mean(0).astype(int), 0, (self.camera.width - 1, self.camera.height - 1))
            fill(self.ground, seen, self.background.picture[v, u] * 0.62)

    def shadow(self, pose: Pose) -> None:
        """Darken the road below and, in the sun, beside a vehicle."""
        kind = pose.kind
        position, heading = pose.position, np.array(pose.heading)
        under = boxes.corners(position, heading, kind.length * 1.02, kind.width * 1.06)
        self._darken(under, 0.42, 2.2)
        if self.light.sun.any():
            self._darken(cast_shadow(under, kind.height * 0.8, self.light), 0.62, 1.6)

    def walker_shadow(self, spot: np.ndarray) -> None:
        """Darken the ground below a walker."""
        angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)
        self._darken(spot + 0.3 * np.stack([np.cos(angle), np.sin(angle)], axis=-1), 0.6, 1.6)

    def _darken(self, polygon: np.ndarray, factor: float, blur: float) -> None:
        seen = self.camera.project_polygon(flat(polygon, 0.02))
        if len(seen) < 3 or not self._inside(seen):
            return
        seen = cut_to_reach(seen)
        x0, y0 = np.maximum(np.floor(seen.min(0)).astype(int) - 6, 0)
        x1, y1 = np.minimum(np.ceil(seen.max(0)).astype(int) + 7, (self.camera.width, self.camera.height))
        mask = np.zeros((y1 - y0, x1 - x0), dtype=np.uint8)
        fill(mask, seen - (x0, y0), (255 * (1 - factor),))
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
        region = self.canvas[y0:y1, x0:x1]
        cv2.multiply(region, cv2.merge([255 - mask] * 3), dst=region, scale=1 / 255)

    def vehicle(self, pose: Pose) -> None:
        """Paint a vehicle; whatever stands between it and the camera is put back afterwards."""
        shape = mesh(pose.kind.name)
        cos, sin = math.cos(pose.heading), math.sin(pose.heading)
        turn = np.array([(cos, -sin, 0.0), (sin, cos, 0.0), (0.0, 0.0, 1.0)])
        origin = np.array([*pose.position, 0.0])
        vertices = shape.vertices
        if any(pose.crushed):
            vertices = _crush(vertices, pose)
        world = vertices @ turn.T + origin
        seen, depth = self.camera.project(world)
        if depth.max() <= NEAR_M or not self._inside(seen):
            return
        cut = bool(depth.min() <= NEAR_M)
        normals = shape.normals @ turn.T
        eye = (self.camera.position - origin) @ turn
        facing = ((eye - shape.centres) * shape.normals).sum(1) > 0
        colours = self._face_colours(pose, shape.materials, normals)
        low, high = np.floor(seen.min(0)).astype(int) - 2, np.ceil(seen.max(0)).astype(int) + 3
        fixed = np.round(seen * (1 << SHIFT)).astype(np.int32)
        for index in shape.orders[int(eye[0] > 0)]:
            if not facing[index]:
                continue
            start, count = shape.faces[index]
            if not cut:
                cv2.fillConvexPoly(self.canvas, fixed[start : start + count], colours[index], cv2.LINE_AA, SHIFT)
                continue
            part = self.camera.project_polygon(world[start : start + count])
            if len(part) > 2:
                fill(self.canvas, part, colours[index])
        self._restore(pose.position, low, high)

    def _face_colours(self, pose: Pose, materials: np.ndarray, normals: np.ndarray) -> list[list[float]]:
        """[F][3]."""
        light = self.light
        palette = MATERIAL_COLOURS.copy()
        palette[BODY] = COLOURS[pose.colour]
        lamp = min(float(light.lamp_light(pose.position)), 1.0)
        colours = light.shade(palette[materials], normals, lamp)
        # A little of the sky is mirrored by paint and glass, so that black cars and windows have a shape.
        colours += (0.05 + 0.05 * (normals[:, 2:] > 0.5)) * light.sky
        if light.headlights:
            on = (1 - light.headlights) * colours + light.headlights * np.array((255, 248, 222))
            colours = np.where((materials == HEAD)[:, None], on, colours)
            tail = np.maximum(colours, light.headlights * np.array((168, 26, 20)))
            colours = np.where((materials == TAIL)[:, None], tail, colours)
        if pose.braking:
            colours[materials == TAIL] = (255, 52, 40)
        if pose.hazard:
            colours[materials == INDICATOR] = (255, 176, 32)
            colours[(materials == TAIL) & (np.arange(len(materials)) % 2 == 1)] = (255, 150, 30)
        distance = float(np.linalg.norm(self.camera.position[:2] - pose.position))
        return np.clip(light.fade(colours, distance), 0, 255).tolist()

    def _restore(self, position: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        """Put solids that are nearer than a ground position back over a region of the canvas."""
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high, (self.camera.width, self.camera.height))
        owner = self.background.owner[y0:y1, x0:x1]
        if not owner.any():
            return
        for number in np.flatnonzero(np.bincount(owner.ravel())):
            if number and self._hides(self.background.solids[number - 1], position):
                region = owner == number
                self.canvas[y0:y1, x0:x1][region] = self.ground[y0:y1, x0:x1][region]

    def _hides(self, solid: Solid, position: np.ndarray) -> bool:
        """Whether a solid stands between a ground position and the camera."""
        eye = self.camera.position[:2]
        middle = solid.footprint.mean(0)
        if np.ptp(solid.footprint, axis=0).max() < 2:
            return bool(np.linalg.norm(middle - eye) < np.linalg.norm(position - eye))
        ray = position - eye
        across = np.array([-ray[1], ray[0]])
        sides = (solid.footprint - eye) @ across
        along = (solid.footprint - eye) @ ray / (ray @ ray)
        if sides.min() * sides.max() > 0:  # the solid is beside the line of sight: the nearer one is in front
            return bool(along.mean() < 1)
        return bool(along.min() < 1)

    def walker(self, spot: np.ndarray, stride: float, clothes: tuple[int, int, int], *, walking: bool) -> None:
        """Paint a walker as an upright figure; `stride` is the phase of the legs."""
        feet, depth = self.camera.project(np.array([[*spot, 0.0], [*spot, 1.72]]))
        if depth.min() <= NEAR_M or not self._inside(feet):
            return
        base, top = feet
        tall = float(base[1] - top[1])
        lamp = min(float(self.light.lamp_light(spot)), 1.0)
        side = np.array([[0.0, 0.0, 1.0]])
        distance = float(np.linalg.norm(self.camera.position[:2] - spot))
        tones = np.array([clothes, (52, 54, 66), (206, 164, 138), (60, 46, 40)], dtype=float)
        shaded = np.clip(self.light.fade(self.light.shade(tones, np.repeat(side, 4, 0), lamp), distance), 0, 255)
        swing = (0.13 * math.sin(stride) if walking else 0.04) * tall
        for sign in (-1, 1):
            foot = base + np.array([sign * swing, 0.0])
            hip = base + np.array([sign * 0.03, -0.48]) * tall
            fill(self.canvas, _bar(foot, hip, 0.055 * tall), shaded[1])
        fill(self.canvas, _bar(base - (0, 0.42 * tall), base - (0, 0.82 * tall), 0.115 * tall), shaded[0])
        head = base - (0, 0.91 * tall)
        for tone, up in ((shaded[2], 0.0), (shaded[3], 0.025)):
            middle = (round(float(head[0]) * 16), round(float(head[1] - up * tall) * 16))
            cv2.circle(self.canvas, middle, round((0.08 - up) * tall * 16), tone.tolist(), -1, cv2.LINE_AA, SHIFT)
        low, high = np.floor(top - tall * 0.2).astype(int), np.ceil(base + tall * 0.2).astype(int)
        self._restore(spot, low, high)

    def shine(self, pose: Pose) -> None:
        """Headlights on the road, and lights that shine into the lens."""
        kind, level = pose.kind, self.light.headlights
        cos, sin = math.cos(pose.heading), math.sin(pose.heading)
        turn = np.array([(cos, -sin), (sin, cos)])
        half = kind.length / 2
        scale = 1 / (2 * SUPERSAMPLING)
        body = boxes.corners(pose.position, np.array(pose.heading), kind.length, kind.width)
        seen, depth = self.camera.project(np.concatenate([flat(body), flat(body, kind.height * 0.9)]))
        if depth.min() <= NEAR_M or not self._inside(seen):
            hull = None
        else:
            hull = cv2.convexHull((seen * scale).astype(np.float32)).reshape(-1, 2)
            fill(self.bloom, hull, (0, 0, 0))  # lights behind the vehicle
        if level > 0.3:
            for reach, spread, strength in ((11.0, 2.5, 60), (8.0, 1.8, 110), (5.0, 1.2, 165)):
                cone = np.array(
                    [(half + 0.2, -0.7), (half + reach, -spread), (half + reach, spread), (half + 0.2, 0.7)]
                )
                seen = self.camera.project_polygon(flat(cone @ turn.T + pose.position))
                if len(seen) > 2 and self._inside(seen):
                    fill(self.gain, seen * scale, np.array((1.0, 0.92, 0.72)) * strength * level)
            if hull is not None:
                fill(self.gain, hull, (12, 12, 10))
        eye = (self.camera.position[:2] - pose.position) @ turn
        z = 0.3 * kind.height if kind.height < 2.5 else 0.8
        for side in (-1, 1):
            y = side * kind.width * 0.3
            if eye[0] > half and level > 0.3:
                self._spark(np.array([half + 0.1, y]), z, pose, turn, (255, 240, 205), level)
            if eye[0] < -half:
                strength = (0.45 + 0.3 * level) if pose.braking else 0.3 * level
                self._spark(np.array([-half - 0.1, y]), z * 1.5, pose, turn, (255, 36, 24), strength)
            if pose.hazard:
                end = half if eye[0] > 0 else -half
                self._spark(np.array([end, y * 1.3]), z * 1.3, pose, turn, (255, 150, 20), 0.7)

    def _spark(
        self, at: np.ndarray, z: float, pose: Pose, turn: np.ndarray, colour: tuple[int, int, int], strength: float
    ) -> None:
        """A soft dot of light, and its mirror image on a wet road."""
        if strength <= 0.02:
            return
        spot = turn @ at + pose.position
        seen, depth = self.camera.project(np.array([[*spot, z], [*spot, -0.6 * z - 0.5]]))
        if depth[0] <= NEAR_M or not self._inside(seen[:1]):
            return
        scale = 1 / (2 * SUPERSAMPLING)
        size = max(0.17 * self.camera.focal_px / depth[0] * scale, 0.5)
        tone = [part * strength for part in colour]
        middle = (round(float(seen[0, 0]) * scale * 16), round(float(seen[0, 1]) * scale * 16))
        if self.light.wet:
            low = (middle[0], round(float(seen[1, 1]) * scale * 16))
            cv2.line(self.bloom, middle, low, [part * 0.3 for part in tone], 1, cv2.LINE_AA, SHIFT)
        cv2.circle(self.bloom, middle, round(size * 16), tone, -1, cv2.LINE_AA, SHIFT)

    def develop(self) -> np.ndarray:
        """The frame at the size of the video, uint8 [H, W, 3]."""
        size = (self.camera.width // SUPERSAMPLING, self.camera.height // SUPERSAMPLING)
        frame = cv2.resize(self.canvas, size, interpolation=cv2.INTER_AREA)
        if not self.gain.any() and not self.bloom.any():
            return frame
        gain = cv2.resize(cv2.GaussianBlur(self.gain, (0, 0), 1.6), size, interpolation=cv2.INTER_LINEAR)
        lit = cv2.multiply(frame, gain, scale=1.9 / 255)
        near = cv2.resize(cv2.GaussianBlur(self.bloom, (0, 0), 0.8), size, interpolation=cv2.INTER_LINEAR)
        wide = cv2.resize(cv2.GaussianBlur(self.bloom, (0, 0), 2.6), size, interpolation=cv2.INTER_LINEAR)
        frame = cv2.add(cv2.add(frame, lit), cv2.addWeighted(gain, 0.05, wide, 0.9, 0))
        return cv2.add(frame, near)

    def _inside(self, points: np.ndarray) -> bool:
        low, high = points.min(0), points.max(0)
        return bool(high.min() > 0 and low[0] < self.camera.width and low[1] < self.camera.height)


def _crush(vertices: np.ndarray, pose: Pose) -> np.ndarray:
    """Push the ends of a vehicle in, most at the height of the bumpers."""
    moved = vertices.copy()
    half = pose.kind.length / 2
    low = np.clip(1.5 - vertices[:, 2] / 0.9, 0, 1)
    for loss, sign in zip(pose.crushed, (1.0, -1.0), strict=True):
        near = np.clip((vertices[:, 0] * sign - half + 1.0) / 1.0, 0, 1)
        moved[:, 0] -= sign * loss * near * low
        moved[:, 2] += 0.35 * loss * near * (vertices[:, 2] > 0.6) * (vertices[:, 1] > 0)
    return moved


def _bar(start: np.ndarray, end: np.ndarray, half: float) -> np.ndarray:
    """A thick line in the picture as a polygon [4, 2]."""
    side = np.array([half, 0.0])
    return np.array([start - side, start + side, end + side, end - side])
