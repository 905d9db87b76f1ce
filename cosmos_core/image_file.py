"""Still pictures as files: decoded completely, turned into 8-bit RGB by explicit rules, never rotated.

Orientation tags are ignored, as the reference does: the pixels are used as they are stored.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cosmos_core.errors import BadInput

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "read_image"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

MAX_PIXELS = 64 * 2**20
"""Largest picture that is decoded; a small file can claim any size."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(path: Path | str) -> np.ndarray:
    """Read a PNG, JPEG, WebP or BMP file.

    Grey becomes three equal channels, 16-bit grey keeps its upper 8 bits, palettes are looked up, CMYK is converted,
    and transparent pixels are laid over black. Of an animation the first picture is taken.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        BadInput: the file is missing, damaged, cut short, too large, or no picture of these formats.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            require_size(path, image.width, image.height)
            image.load()
            return np.array(_to_rgb(image))
    except FileNotFoundError:
        raise BadInput("no such input file", got=path) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadInput(f"{path} is too large", got=error, expected=f"at most {MAX_PIXELS} pixels") from error
    except UnidentifiedImageError:
        raise BadInput(
            f"{path} cannot be read as a picture", expected=" | ".join(_FORMATS), fix="Export the picture again."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise BadInput(
            f"{path} is damaged or cut short",
            got=error,
            expected="a complete picture",
            fix="Copy or export the file again.",
        ) from error


def require_size(path: Path, width: int, height: int) -> None:
    """Refuse a picture or video that is too large to decode.

    Raises:
        BadInput: it has more than `MAX_PIXELS` pixels.
    """
    if width * height > MAX_PIXELS:
        raise BadInput(
            f"{path} is too large",
            got=f"{width} x {height}",
            expected=f"at most {MAX_PIXELS} pixels",
            fix="Scale it down first.",
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        # Pillow's own conversion would clip every value above 255.
        values = np.asarray(image, dtype=np.uint32) >> 8
        return Image.fromarray(values.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        picture = image.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return image.convert("RGB")
