"""Light and air: what time of day and weather do to a colour. Colours are RGB from 0 to 255, light is a factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LAMP_REACH_M = 5.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Lighting:
    """How a scene is lit."""

    ambient: np.ndarray
    """[3], from the sky."""
    sun: np.ndarray
    """[3]; zero when there are no shadows."""
    sun_direction: np.ndarray
    """[3], unit, towards the sun."""
    sky: np.ndarray
    """[3], at the top of the picture."""
    haze: np.ndarray
    """[3], what distance fades into."""
    haze_per_m: float
    lamps: np.ndarray
    """[3], light under a street lamp."""
    lamp_places: np.ndarray
    """[N, 2]."""
    headlights: float
    """From 0, off, to 1, at night."""
    wet: bool

    def lamp_light(self, points: np.ndarray) -> np.ndarray:
        """Light of the street lamps, from 0 to about 1, at ground points [..., 2]."""
        level = np.zeros(points.shape[:-1])
        for place in self.lamp_places:
            level += np.exp(-((points - place) ** 2).sum(-1) / (2 * _LAMP_REACH_M**2))
        return 1.15 * (1 - np.exp(-level))

    def shade(self, colours: np.ndarray, normals: np.ndarray, lamp: float) -> np.ndarray:
        """Colours [N, 3] of surfaces with unit normals [N, 3] that get `lamp` of the street lamps' light."""
        facing = np.maximum(normals @ self.sun_direction, 0.0)
        above = 0.78 + 0.22 * normals[:, 2]
        light = above[:, None] * (self.ambient + lamp * self.lamps) + facing[:, None] * self.sun
        return colours * light

    def fade(self, colours: np.ndarray, distance: np.ndarray | float) -> np.ndarray:
        """Colours [..., 3] seen through `distance` metres [...] of air."""
        clear = np.exp(-self.haze_per_m * np.asarray(distance))[..., None]
        return colours * clear + self.haze * (1 - clear)


def lighting(
    rng: np.random.Generator, time_of_day: str, weather: str, lamp_places: list[tuple[float, float]]
) -> Lighting:
    """The light of a time of day and a weather; the sun stands somewhere else in each scene."""
    ambient, sun, sky, haze = (np.array(colour, dtype=float) for colour in _TIMES[time_of_day])
    azimuth = rng.uniform(0, 2 * np.pi)
    height = rng.uniform(0.75, 1.1) if time_of_day == "day" else 0.45
    direction = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    if weather == "rain":
        ambient, sun = ambient * (0.86, 0.9, 0.95) + sun * 0.12, sun * 0
        sky = sky * 0.35 + sky.mean() * 0.5
        haze = sky * 0.92
    if weather == "fog":
        ambient, sun = ambient + sun.mean() * 0.35, sun * 0
        haze = haze * 0.4 + haze.mean() * 0.6
        sky = haze
    return Lighting(
        ambient=ambient,
        sun=sun,
        sun_direction=direction,
        sky=sky,
        haze=haze,
        haze_per_m={"clear": 0.002, "rain": 0.006, "fog": 0.016}[weather],
        lamps=np.array({"day": (0, 0, 0), "dusk": (0.30, 0.22, 0.10), "night": (0.74, 0.58, 0.34)}[time_of_day]),
        lamp_places=np.array(lamp_places).reshape(-1, 2),
        headlights={"day": 0.0, "dusk": 0.6, "night": 1.0}[time_of_day] or (0.2 if weather != "clear" else 0.0),
        wet=weather == "rain",
    )


_TIMES: dict[str, tuple[tuple[float, ...], ...]] = {
    "day": ((0.64, 0.67, 0.72), (0.50, 0.46, 0.38), (156, 190, 224), (206, 214, 222)),
    "dusk": ((0.56, 0.52, 0.58), (0.52, 0.36, 0.20), (226, 170, 134), (196, 166, 152)),
    "night": ((0.26, 0.29, 0.38), (0.0, 0.0, 0.0), (26, 32, 54), (52, 58, 76)),
}
"""Ambient light, sun, sky, haze."""
