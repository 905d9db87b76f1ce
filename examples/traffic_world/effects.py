"""What an impact throws about: glass and plastic, a puff of dust; and the rain."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from examples.traffic_world.background import SHIFT, fill
from examples.traffic_world.camera import NEAR_M, Camera
from examples.traffic_world.lighting import Lighting

_GRAVITY = 9.8
_PUFF_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Debris:
    """Bits that fly off at an impact and come to lie on the road."""

    start: np.ndarray
    """[N, 3], metres."""
    velocity: np.ndarray
    """[N, 3]."""
    size: np.ndarray
    """[N]."""
    colours: np.ndarray
    """[N, 3]."""

    @classmethod
    def thrown(cls, rng: np.random.Generator, point: np.ndarray, drift: np.ndarray, paint: list[np.ndarray]) -> Debris:
        """Bits from a point [2] that on the whole move with a velocity [2]."""
        count = int(rng.integers(12, 18))
        angle = rng.uniform(0, 2 * np.pi, count)
        speed = rng.uniform(0.8, 4.5, count)
        velocity = np.stack([np.cos(angle) * speed, np.sin(angle) * speed, rng.uniform(1.0, 4.0, count)], axis=-1)
        velocity[:, :2] += drift * rng.uniform(0.3, 0.9, (count, 1))
        tones = np.array([(40, 41, 44), (206, 216, 222), (60, 62, 66), *paint], dtype=float)
        return cls(
            start=np.concatenate([point + rng.normal(0, 0.25, (count, 2)), rng.uniform(0.4, 0.9, (count, 1))], axis=1),
            velocity=velocity,
            size=rng.uniform(0.10, 0.24, count),
            colours=tones[rng.integers(len(tones), size=count)],
        )

    def at(self, seconds: float) -> np.ndarray:
        """Positions [N, 3]: a parabola to the ground, then a short slide."""
        rise = self.velocity[:, 2]
        landing = (rise + np.sqrt(rise**2 + 2 * _GRAVITY * self.start[:, 2])) / _GRAVITY
        flight = np.minimum(seconds, landing)
        slide = np.clip(seconds - landing, 0, 0.5)
        spots = self.start + self.velocity * (flight + slide - slide**2)[:, None]
        spots[:, 2] = np.maximum(self.start[:, 2] + rise * flight - 0.5 * _GRAVITY * flight**2, 0.03)
        return spots

    def paint(self, canvas: np.ndarray, seconds: float, camera: Camera, light: Lighting, *, flying: bool) -> None:
        """Draw the bits `seconds` after the impact: those in the air, or those on the ground."""
        spots = self.at(seconds)
        seen, depth = camera.project(spots)
        chosen = np.flatnonzero((depth > NEAR_M) & ((spots[:, 2] > 0.1) == flying))
        if len(chosen) == 0:
            return
        lamp = float(np.minimum(light.lamp_light(spots[:, :2]), 1.0).mean())
        up = np.tile((0.0, 0.0, 1.0), (len(spots), 1))
        colours = np.clip(light.fade(light.shade(self.colours, up, lamp), depth), 0, 255)
        for index in chosen[np.argsort(-depth[chosen])]:
            half = self.size[index] * camera.focal_px / depth[index]
            turn = index + (seconds * 6 if spots[index, 2] > 0.05 else 0.0)
            angle = turn + np.array([0.0, 1.3, 3.1, 4.6])
            offset = np.stack([np.cos(angle), 0.7 * np.sin(angle)], axis=-1) * half
            if (np.abs(seen[index]) < 4000).all():
                fill(canvas, seen[index] + offset, colours[index])


def paint_puff(canvas: np.ndarray, point: np.ndarray, seconds: float, camera: Camera, light: Lighting) -> None:
    """Dust and steam over an impact point [2], growing and fading."""
    if not 0 <= seconds < _PUFF_S:
        return
    age = seconds / _PUFF_S
    seen, depth = camera.project(np.array([[*point, 0.5 + 1.3 * age]]))
    radius = (0.6 + 1.9 * age**0.6) * camera.focal_px / depth[0]
    x0, y0 = np.maximum((seen[0] - radius).astype(int), 0)
    x1, y1 = np.minimum((seen[0] + radius).astype(int) + 1, (camera.width, camera.height))
    if depth[0] <= NEAR_M or x1 <= x0 or y1 <= y0:
        return
    y, x = np.mgrid[y0:y1, x0:x1]
    share = np.hypot(x - seen[0, 0], y - seen[0, 1]) / radius
    alpha = (0.62 * (1 - age) * np.clip(1 - share, 0, 1) ** 0.8)[..., None]
    grey = light.shade(np.array([(205.0, 202.0, 196.0)]), np.array([[0.0, 0.0, 1.0]]), 0.5)[0]
    region = canvas[y0:y1, x0:x1]
    region[:] = (region * (1 - alpha) + np.minimum(grey, 235) * alpha).astype(np.uint8)


def paint_rain(canvas: np.ndarray, rng: np.random.Generator, slant: float, light: Lighting) -> None:
    """A few faint streaks."""
    height, width = canvas.shape[:2]
    tone = (light.sky * 0.5 + 90).tolist()
    veil = canvas.copy()
    for _ in range(12):
        x, y, length = rng.uniform(0, width), rng.uniform(-10, height), rng.uniform(22, 42)
        start = (round(x * 16), round(y * 16))
        end = (round((x + slant * length) * 16), round((y + length) * 16))
        cv2.line(veil, start, end, tone, 1, cv2.LINE_AA, SHIFT)
    cv2.addWeighted(veil, 0.4, canvas, 0.6, 0, dst=canvas)
