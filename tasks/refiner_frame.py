"""The picture that a refining model sees: the frame that the video starts from, as a JPEG of bounded size.

Faces and number plates are covered first: the picture may leave this machine, and no prompt needs them.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from cosmos_core.errors import BadInput
from cosmos_core.image_file import IMAGE_SUFFIXES
from cosmos_core.video_file import read_image, read_video
from tasks.redaction import redact_frames

__all__ = ["data_url", "jpeg_of_frame"]

_QUALITIES = (90, 75, 60, 45)


def jpeg_of_frame(path: Path, *, max_side: int, max_bytes: int) -> bytes:
    """The last frame of a video, or the picture, no larger than asked for in either way.

    Raises:
        BadInput: it cannot be read, not be made that small, or a face or plate remains on it.
        CheckUnavailable: there is nothing to find them with.
    """
    frames = read_image(path)[None] if path.suffix.lower() in IMAGE_SUFFIXES else read_video(path, last=1)
    covered, report = redact_frames(frames)
    if report.residual:
        raise BadInput(f"{path} cannot be shown to the refiner", got="a face or plate that could not be covered")
    picture = Image.fromarray(covered[-1])
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    while min(picture.size) > 1:
        for quality in _QUALITIES:
            sink = io.BytesIO()
            picture.save(sink, "JPEG", quality=quality)
            if sink.tell() <= max_bytes:
                return sink.getvalue()
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    raise BadInput(f"{path} cannot be shown to the refiner", got="a picture that stays too large", expected=max_bytes)


def data_url(jpeg: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
