"""Draw the camera frames of the demo and write its manifest, as Parquet and in the JSON batch form.

    python -m examples.demo.make_demo

Drawn, not photographed, but for the portrait of `guarded.py`: no other person, no plate and no place is shown. Metres
on the ground: x to the right, y away from the camera, z up.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

from examples.demo.guarded import billboard, guarded_scenarios

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT, SUPERSAMPLING = 1280, 720, 2

Point = tuple[float, float, float]
Colour = tuple[int, int, int]


class Scene:
    """A painter with a pinhole camera on a mast."""

    def __init__(self, *, sky: Colour, ground: Colour, light: float, mast: float = 9.0, pitch: float = 0.42) -> None:
        size = (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING)
        self.image = Image.new("RGB", size, sky)
        self.draw = ImageDraw.Draw(self.image)
        self.light, self.mast, self.pitch = light, mast, pitch
        horizon = self.project((0, 4000, 0))[1]
        for row in range(int(horizon)):
            share = row / horizon
            shade = tuple(int(c * (0.75 + 0.35 * share)) for c in sky)
            self.draw.line([(0, row), (size[0], row)], fill=shade)
        self.draw.rectangle([0, horizon, *size], fill=self._lit(ground))

    def project(self, point: Point) -> tuple[float, float]:
        x, y, z = point[0], point[1] + 7.0, point[2] - self.mast
        depth = y * math.cos(self.pitch) - z * math.sin(self.pitch)
        up = y * math.sin(self.pitch) + z * math.cos(self.pitch)
        scale = 0.95 * WIDTH * SUPERSAMPLING / max(depth, 0.5)
        return WIDTH * SUPERSAMPLING / 2 + x * scale, HEIGHT * SUPERSAMPLING / 2 - up * scale

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self.draw.polygon([self.project(point) for point in points], fill=self._lit(colour))

    def ground(self, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)], colour)

    def box(self, x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: Colour) -> None:
        """The three faces that the camera sees."""
        side = x1 if x1 < 0 else x0
        if x1 < 0 or x0 > 0:
            self.polygon([(side, y0, z0), (side, y1, z0), (side, y1, z1), (side, y0, z1)], _scaled(colour, 0.7))
        self.polygon([(x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)], _scaled(colour, 0.85))
        if z1 < self.mast:
            self.polygon([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], colour)

    def car(self, x: float, y: float, colour: Colour, *, across: bool = False, length: float = 4.4) -> None:
        long_, wide = (length, 1.8) if across else (1.8, length)
        x0, x1, y0, y1 = x - long_ / 2, x + long_ / 2, y - wide / 2, y + wide / 2
        self.ground(x0 - 0.2, x1 + 0.5, y0 - 0.25, y1 + 0.1, (38, 38, 42))
        self.box(x0, x1, y0, y1, 0.35, 0.95, colour)
        inset_x, inset_y = (0.9, 0.15) if across else (0.15, 0.9)
        self.box(x0 + inset_x, x1 - inset_x, y0 + inset_y, y1 - inset_y, 0.95, 1.5, (40, 46, 54))
        self.ground_roof(x0 + inset_x * 1.15, x1 - inset_x * 1.15, y0 + inset_y * 1.15, y1 - inset_y * 1.15, colour)

    def ground_roof(self, x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0, 1.5), (x1, y0, 1.5), (x1, y1, 1.5), (x0, y1, 1.5)], _scaled(colour, 1.08))

    def building(self, x0: float, x1: float, y0: float, y1: float, height: float, colour: Colour) -> None:
        self.box(x0, x1, y0, y1, 0, height, colour)
        rows, columns = max(2, int(height / 3.2)), max(2, int((x1 - x0) / 3))
        for row in range(rows):
            for column in range(columns):
                left = x0 + (column + 0.25) * (x1 - x0) / columns
                bottom = (row + 0.35) * height / rows
                right, top = left + 0.5 * (x1 - x0) / columns, bottom + 0.4 * height / rows
                window = [(left, y0, bottom), (right, y0, bottom), (right, y0, top), (left, y0, top)]
                self.polygon(window, (88, 104, 122) if (row * 7 + column * 3) % 5 else (196, 186, 150))

    def finish(self, seed: int) -> Image.Image:
        """Scale down, add the softness and noise of a small sensor."""
        image = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).filter(ImageFilter.GaussianBlur(0.6))
        noise = Image.effect_noise((WIDTH, HEIGHT), 10)
        random.seed(seed)
        return Image.blend(image, Image.merge("RGB", (noise, noise, noise)), 0.035)

    def _lit(self, colour: Colour) -> Colour:
        return _scaled(colour, self.light)


def _scaled(colour: Colour, factor: float) -> Colour:
    return tuple(min(255, int(c * factor)) for c in colour)  # type: ignore[return-value]


ASPHALT, MARKING, PAVEMENT, GRASS = (92, 94, 98), (226, 226, 218), (150, 146, 138), (104, 128, 84)


def intersection() -> Image.Image:
    scene = Scene(sky=(176, 202, 226), ground=PAVEMENT, light=1.0, mast=10.0, pitch=0.32)
    for left, right, tall, colour in ((-60, -34, 15, (168, 120, 98)), (-31, -12, 20, (186, 176, 160))):
        scene.building(left, right, 46, 60, tall, colour)
    for left, right, tall, colour in ((12, 30, 13, (154, 160, 168)), (33, 60, 18, (178, 150, 124))):
        scene.building(left, right, 46, 60, tall, colour)
    scene.ground(-8, 8, -8, 400, ASPHALT)
    scene.ground(-120, 120, 14, 30, ASPHALT)
    for start in (*range(-8, 10, 4), *range(34, 140, 5)):
        scene.ground(-0.12, 0.12, start, start + 2.2, MARKING)
    for start in (*range(-100, -12, 5), *range(12, 100, 5)):
        scene.ground(start, start + 2.4, 21.9, 22.15, MARKING)
    for stripe in range(-7, 8, 2):
        scene.ground(stripe - 0.45, stripe + 0.45, 10.2, 12.8, MARKING)
        scene.ground(stripe - 0.45, stripe + 0.45, 31.2, 33.6, MARKING)
    scene.ground(0.4, 7.8, 9.3, 9.7, MARKING)
    scene.car(-12.5, 18.2, (196, 198, 202), across=True)
    scene.car(17, 25.8, (52, 74, 120), across=True)
    scene.car(-4, 40, (60, 62, 66))
    scene.car(4, 27, (178, 34, 38))
    scene.car(4, 5.5, (232, 232, 228))
    return scene.finish(1)


def highway() -> Image.Image:
    scene = Scene(sky=(198, 206, 214), ground=GRASS, light=0.92, pitch=0.36)
    scene.ground(-13, 13, -8, 800, ASPHALT)
    scene.ground(-0.9, 0.9, -8, 800, (124, 132, 96))
    for x in (-12.3, -1.3, 1.3, 12.3):
        scene.ground(x - 0.1, x + 0.1, -8, 800, MARKING)
    for x in (-8.6, -4.9, 4.9, 8.6):
        for start in range(-6, 320, 9):
            scene.ground(x - 0.09, x + 0.09, start, start + 3.6, MARKING)
    for y in range(120, 0, -6):
        scene.box(-0.3, 0.3, y - 6, y, 0.35, 0.75, (188, 190, 194))
    for x, y, colour in (
        (-6.7, 70, (70, 74, 80)),
        (10.4, 62, (214, 216, 218)),
        (3.1, 48, (120, 30, 34)),
        (-10.4, 34, (222, 222, 218)),
    ):
        scene.car(x, y, colour)
    scene.car(6.75, 27, (176, 180, 186), length=5.4)
    scene.car(6.75, 15, (34, 36, 40))
    scene.car(-3.1, 12, (44, 84, 132))
    return scene.finish(2)


def scenarios() -> list[dict[str, object]]:
    collision = (
        "A static traffic CCTV camera captures a four-way intersection during daytime. A red sedan enters the "
        "intersection at speed. From the left, a silver sedan proceeds and collides with its side. The impact turns "
        "the red sedan and both vehicles come to rest blocking traffic."
    )
    rear_end = (
        "A static traffic CCTV camera shows a multi-lane highway with light traffic. A silver pickup truck suddenly "
        "brakes and a black sedan following too closely runs into its rear bumper. Both vehicles stop in their lane."
    )
    ordinary = (
        "A static traffic CCTV camera captures a four-way intersection during daytime. Cars cross one after another at "
        "moderate speed and keep their distance. Traffic flows on."
    )
    labels = {"incident_type": "t_bone", "weather": "clear", "time_of_day": "day", "actors": "sedan, sedan"}
    common = {"num_steps": 12, "seed": 7}
    return [
        common | {"input": "frames/intersection.jpg", "prompt": ordinary, "output_name": "ordinary_traffic.mp4",
                  "labels": labels | {"incident_type": "none"}},
        common | {"input": "frames/intersection.jpg", "prompt": collision, "output_name": "t_bone_collision.mp4",
                  "adapters": [{"name": "collision", "strength": 1.0}], "labels": labels},
        common | {"input": "frames/highway.jpg", "prompt": rear_end, "output_name": "rear_end_collision.mp4",
                  "adapters": [{"name": "rear_end", "strength": 1.0}],
                  "labels": labels | {"incident_type": "rear_end", "actors": "pickup, sedan"}},
        common | {"input": "frames/camera_17_offline.jpg", "prompt": collision, "output_name": "missing_camera.mp4",
                  "labels": labels},
    ]  # fmt: skip


def main() -> None:
    """Write everything beside this file."""
    (HERE / "frames").mkdir(exist_ok=True)
    intersection().save(HERE / "frames" / "intersection.jpg", quality=90)
    highway().save(HERE / "frames" / "highway.jpg", quality=90)
    billboard().save(HERE / "frames" / "billboard.jpg", quality=90)
    rows = scenarios() + guarded_scenarios("frames/intersection.jpg")
    (HERE / "scenarios.json").write_text(
        json.dumps(
            [{"input_video": r["input"], "prompt": r["prompt"], "output_video": r["output_name"]} for r in rows],
            indent=2,
        )
        + "\n"
    )
    pd.DataFrame(rows).to_parquet(HERE / "manifest.parquet", index=False)


if __name__ == "__main__":
    main()
