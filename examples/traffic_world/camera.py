"""A pinhole camera on a mast. World axes are metres, x and y on the ground, z up; pictures have v downwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NEAR_M = 1.0
"""Nothing nearer than this is drawn."""

_FARTHEST_PX = 30000.0
"""Beyond this from the picture's corner cv2 no longer draws polygons."""


def cut_to_reach(points: np.ndarray) -> np.ndarray:
    """A convex polygon [N, 2] of the picture without what lies too far outside of it to be drawn: [M, 2].

    Moving the far corners nearer instead would turn the edges that run through the picture.
    """
    for axis in (0, 1):
        for sign in (1.0, -1.0):
            inside = sign * points[:, axis] <= _FARTHEST_PX
            if inside.all():
                continue
            kept: list[np.ndarray] = []
            for index, here in enumerate(points):
                there = points[(index + 1) % len(points)]
                if inside[index]:
                    kept.append(here)
                if inside[index] != inside[(index + 1) % len(points)]:
                    share = (sign * _FARTHEST_PX - here[axis]) / (there[axis] - here[axis])
                    kept.append(here + (there - here) * share)
            points = np.array(kept).reshape(-1, 2)
    return points


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """Where a fixed camera stands and how it looks."""

    position: np.ndarray
    """[3], metres."""
    axes: np.ndarray
    """[3, 3]: the rows point right, down and forward in the picture."""
    focal_px: float
    width: int
    height: int

    @classmethod
    def looking_at(
        cls, position: np.ndarray, target: np.ndarray, *, view_width_m: float, width: int, height: int
    ) -> Camera:
        """A level camera whose picture is `view_width_m` wide at the distance of the target."""
        ahead = target - position
        distance = float(np.linalg.norm(ahead))
        ahead = ahead / distance
        right = np.cross(ahead, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(ahead, right), ahead])
        focal = width * distance / view_width_m
        return cls(position=position, axes=axes, focal_px=focal, width=width, height=height)

    def scaled(self, factor: int) -> Camera:
        """The same view in a picture `factor` times as large."""
        return Camera(
            position=self.position,
            axes=self.axes,
            focal_px=self.focal_px * factor,
            width=self.width * factor,
            height=self.height * factor,
        )

    def to_view(self, points: np.ndarray) -> np.ndarray:
        """World points [N, 3] in camera axes (right, down, forward)."""
        return (points - self.position) @ self.axes.T

    def to_picture(self, view: np.ndarray) -> np.ndarray:
        """Picture points [N, 2] of points in camera axes in front of the camera."""
        return view[:, :2] / view[:, 2:] * self.focal_px + (self.width / 2, self.height / 2)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture points [N, 2] and depths [N]; points behind the near plane are put onto it."""
        view = self.to_view(points)
        depth = view[:, 2].copy()
        view[:, 2] = np.maximum(depth, NEAR_M)
        return self.to_picture(view), depth

    def project_polygon(self, points: np.ndarray) -> np.ndarray:
        """A flat polygon [N, 3] in the picture, cut at the near plane: [M, 2], M is 0 if all of it is behind."""
        view = self.to_view(points)
        if (view[:, 2] >= NEAR_M).all():
            return self.to_picture(view)
        kept: list[np.ndarray] = []
        for here, there in zip(view, np.roll(view, -1, axis=0), strict=True):
            if here[2] >= NEAR_M:
                kept.append(here)
            if (here[2] >= NEAR_M) != (there[2] >= NEAR_M):
                kept.append(here + (there - here) * (NEAR_M - here[2]) / (there[2] - here[2]))
        return self.to_picture(np.array(kept)) if kept else np.zeros((0, 2))

    def ground(self) -> tuple[np.ndarray, np.ndarray]:
        """Ground points [H, W, 2] that the pixels see, and their distance [H, W]; above the horizon it is infinite."""
        across = (np.arange(self.width) + 0.5 - self.width / 2) / self.focal_px
        down = (np.arange(self.height) + 0.5 - self.height / 2) / self.focal_px
        rays = across[None, :, None] * self.axes[0] + down[:, None, None] * self.axes[1] + self.axes[2]
        falls = rays[..., 2] < -1e-3
        reach = np.where(falls, -self.position[2] / np.where(falls, rays[..., 2], -1.0), np.inf)
        points = self.position[:2] + rays[..., :2] * np.where(falls, reach, 0.0)[..., None]
        return points, reach * np.linalg.norm(rays, axis=-1)
