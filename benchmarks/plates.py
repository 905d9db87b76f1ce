"""Number plates drawn in the manner of the European Union and of the United States, put into a picture at an angle.

Legend: H W height and width in pixels; pictures are uint8 RGB [H, W, 3].
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["PLATE_TEXTS", "PlateStyle", "draw_plate", "put_plate"]

PlateStyle = Literal["eu", "us"]

PLATE_TEXTS: dict[PlateStyle, tuple[str, ...]] = {
    "eu": ("B KX 4071", "M AB 123", "WA 52817"),
    "us": ("7KXT402", "ABC 1234", "5RVH 29"),
}
_FONT = "DejaVuSansCondensed-Bold.ttf"
_HEIGHT = 160  # of the drawing that is then scaled down
_OVERSAMPLING = 4


def draw_plate(style: PlateStyle, text: str) -> np.ndarray:
    """A plate seen straight on: 520 x 114 mm with a blue band, or 12 x 6 inches with a line above the number."""
    width = round(_HEIGHT * (520 / 114 if style == "eu" else 2.0))
    image = Image.new("RGB", (width, _HEIGHT), (245, 245, 240))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((1, 1, width - 2, _HEIGHT - 2), radius=12, outline=(20, 20, 20), width=4)
    if style == "eu":
        draw.rectangle((4, 4, 56, _HEIGHT - 5), fill=(0, 51, 153))
        _spaced(draw, text, left=70, right=width - 14, middle=_HEIGHT / 2, size=138, fill=(15, 15, 15))
    else:
        _spaced(draw, "EVERGREEN", left=70, right=width - 70, middle=22, size=24, fill=(30, 60, 120))
        _spaced(draw, text, left=18, right=width - 18, middle=92, size=98, fill=(30, 50, 110))
    return np.asarray(image)


def _spaced(
    draw: ImageDraw.ImageDraw,
    text: str,
    *,
    left: int,
    right: int,
    middle: float,
    size: int,
    fill: tuple[int, int, int],
) -> None:
    """Letters with the distance that they have on plates, as large as the place allows."""
    font = ImageFont.truetype(_FONT, size)
    while (whole := sum(font.getlength(letter) for letter in text) + 0.16 * size * (len(text) - 1)) > right - left:
        size -= 1
        font = ImageFont.truetype(_FONT, size)
    x = (left + right - whole) / 2
    for letter in text:
        draw.text((x, middle), letter, font=font, fill=fill, anchor="lm")
        x += font.getlength(letter) + 0.16 * size


def put_plate(
    picture: np.ndarray,
    style: PlateStyle,
    text: str,
    *,
    centre: tuple[int, int],
    height: float,
    roll_deg: float = 0.0,
    yaw_deg: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The picture with a plate on a dark car body.

    Args:
        centre: x, y of the plate.
        height: of the plate in pixels, before it is turned.
        roll_deg: turn within the picture.
        yaw_deg: turn about the upright axis, with perspective.

    Returns:
        The picture, and a mask [H, W] of where the number stands.
    """
    plate = draw_plate(style, text)
    band = np.zeros(plate.shape[:2], dtype=np.uint8)
    band[round(0.3 * _HEIGHT) : round(0.85 * _HEIGHT), round(0.1 * plate.shape[1]) : round(0.93 * plate.shape[1])] = 255
    width = height * plate.shape[1] / _HEIGHT
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, height / 2)
    yaw, roll = np.radians(yaw_deg), np.radians(roll_deg)
    depth = 1 + corners[:, 0] * np.sin(yaw) / (6 * width)
    turned = np.stack([corners[:, 0] * np.cos(yaw) / depth, corners[:, 1] / depth], axis=1)
    turned = turned @ np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]]) + centre
    result = picture.copy()
    (x, y), body = centre, (52, 60, 90)
    cv2.rectangle(
        result,
        (round(x - 0.9 * width), round(y - 3 * height)),
        (round(x + 0.9 * width), round(y + 1.6 * height)),
        body,
        -1,
    )
    # Only the plate's surroundings are drawn large and scaled down again.
    origin = np.maximum(np.floor(turned.min(axis=0)).astype(int) - 2, 0)
    end = np.minimum(np.ceil(turned.max(axis=0)).astype(int) + 3, (picture.shape[1], picture.shape[0]))
    flat = np.array([[0, 0], [plate.shape[1], 0], [plate.shape[1], _HEIGHT], [0, _HEIGHT]])
    large = (turned - origin) * _OVERSAMPLING
    warp = cv2.getPerspectiveTransform(flat.astype(np.float32), large.astype(np.float32))
    small = tuple(int(length) for length in end - origin)
    size = tuple(length * _OVERSAMPLING for length in small)

    def projected(image: np.ndarray) -> np.ndarray:
        return cv2.resize(cv2.warpPerspective(image, warp, size), small, interpolation=cv2.INTER_AREA)

    place = np.s_[origin[1] : end[1], origin[0] : end[0]]
    share = projected(np.full(plate.shape[:2], 255, dtype=np.uint8))[..., None] / 255
    mixed = result[place] * (1 - share) + projected(plate)
    result[place] = np.clip(mixed, 0, 255).astype(np.uint8)
    number = np.zeros(picture.shape[:2], dtype=bool)
    number[place] = projected(band) > 127
    return result, number
