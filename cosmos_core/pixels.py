"""Bytes to the network's range and back, byte for byte as the reference does it.

Legend: T frames, H W height and width in pixels, C colour channels, B batch (always 1).
Source: reference files cosmos_predict2/pipelines/video2world.py, imaginaire/utils/io.py.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_core.errors import BadInput, BadModel, BadRequest

__all__ = ["conditioning_clip", "conditioning_frames", "normalise", "resize_and_crop", "to_bytes"]

_CONDITIONAL_FRAMES = (1, 5)
_GUESSED_RANGE_LIMIT = -0.5


def resize_and_crop(frames_THWC: np.ndarray, *, width: int, height: int) -> np.ndarray:
    """Scale frames until they cover the size, then cut out the centre.

    Args:
        frames_THWC: uint8.
        width: of the result.
        height: of the result.

    Returns:
        uint8 [T, height, width, 3].
    """
    _require_frames(frames_THWC)
    return np.stack([_resize_and_crop_frame(frame, width=width, height=height) for frame in frames_THWC])


def conditioning_frames(
    frames_THWC: np.ndarray, *, width: int, height: int, num_conditional_frames: int = 1
) -> np.ndarray:
    """The frames that a clip starts from: the last 1 or 5 of what is given, at the clip's size.

    Args:
        frames_THWC: uint8 frames of a picture (T = 1) or of a video.
        width: of the clip.
        height: of the clip.
        num_conditional_frames: 1 or 5.

    Returns:
        uint8 [num_conditional_frames, height, width, 3].

    Raises:
        BadRequest: another number of conditioning frames.
        BadInput: there are fewer frames.
    """
    if num_conditional_frames not in _CONDITIONAL_FRAMES:
        raise BadRequest("number of conditioning frames", got=num_conditional_frames, expected="1 or 5")
    _require_frames(frames_THWC)
    if len(frames_THWC) < num_conditional_frames:
        raise BadInput(
            "too few frames to start from",
            got=len(frames_THWC),
            expected=f"at least {num_conditional_frames}",
            fix="Give a longer video, or condition on 1 frame.",
        )
    return resize_and_crop(frames_THWC[-num_conditional_frames:], width=width, height=height)


def conditioning_clip(
    frames_THWC: np.ndarray,
    *,
    source: Literal["image", "video"],
    width: int,
    height: int,
    num_frames: int,
    num_conditional_frames: int = 1,
) -> np.ndarray:
    """The whole clip that the reference encodes: conditioning frames, then black (picture) or the last one (video).

    What follows the conditioning frames does not reach their latents, so generation encodes those alone.

    Returns:
        uint8 [num_frames, height, width, 3].

    Raises:
        BadRequest: another number of conditioning frames than 1 or 5.
        BadInput: there are fewer frames.
    """
    head = conditioning_frames(frames_THWC, width=width, height=height, num_conditional_frames=num_conditional_frames)
    fill = np.zeros_like(head[-1:]) if source == "image" else head[-1:]
    return np.concatenate([head, np.repeat(fill, num_frames - len(head), axis=0)])


def normalise(frames: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Bytes of any shape to [-1, 1]: byte / 127.5 - 1, computed in `dtype`."""
    return frames.to(dtype) / 127.5 - 1.0


def to_bytes(video_BCTHW: Tensor, *, guess_range: bool = False) -> np.ndarray:
    """A decoded video to frames, one frame at a time.

    Args:
        video_BCTHW: [1, 3, T, H, W] or [3, T, H, W], nominally in [-1, 1]; values beyond are clamped.
        guess_range: take a video without a value below -0.5 for one in [0, 1], as the reference does. It washes out
            scenes without dark pixels (fog, snow), so it is off by default.

    Returns:
        uint8 [T, H, W, 3].

    Raises:
        BadModel: values are not finite.
    """
    video = video_BCTHW if video_BCTHW.ndim == 4 else video_BCTHW.squeeze(0)
    if video.ndim != 4 or video.shape[0] != 3:
        raise BadRequest("shape of a video", got=tuple(video_BCTHW.shape), expected="[1, 3, T, H, W] or [3, T, H, W]")
    low, high = torch.aminmax(video)
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise BadModel(
            "the decoded video holds values that are not finite",
            got=f"{low.item()} to {high.item()}",
            fix="The weights are damaged or overflow in this precision: verify the checkpoint, or use float32.",
        )
    unit_range = guess_range and bool(low >= _GUESSED_RANGE_LIMIT)
    frames = []
    for frame_CHW in video.unbind(1):
        # In bfloat16 white would be 255.5 = 256, which is byte 0.
        frame_CHW = frame_CHW.float()
        unit = frame_CHW if unit_range else (frame_CHW + 1.0) / 2.0
        frames.append((unit.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    return np.stack(frames)


def _require_frames(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise BadRequest("input frames", got=f"{frames.dtype} {frames.shape}", expected="uint8 [T, H, W, 3]")


def _resize_and_crop_frame(frame_HWC: np.ndarray, *, width: int, height: int) -> np.ndarray:
    original_height, original_width = frame_HWC.shape[:2]
    ratio = max(width / original_width, height / original_height)
    # In floating point the ceiling can come out one pixel larger than needed; the crop below removes it again.
    size = (math.ceil(ratio * original_height), math.ceil(ratio * original_width))
    frame = torch.tensor(frame_HWC).permute(2, 0, 1)[None].float() / 255.0
    if size != (original_height, original_width):
        frame = F.interpolate(frame, size=size, mode="bilinear", align_corners=False, antialias=True)
    # round() rounds halves to even, as the reference's centre crop does.
    top, left = round((size[0] - height) / 2), round((size[1] - width) / 2)
    frame = frame[0, :, top : top + height, left : left + width]
    return (frame * 255.0).to(torch.uint8).permute(1, 2, 0).numpy()
