"""One record owns all arithmetic between pixels, latents and tokens.

Latents are 8 times smaller in space and 4 times in time (the causal VAE keeps the first frame apart), tokens are
patches of 2 x 2 latents. Sizes: reference file cosmos_predict2/datasets/utils.py, VIDEO_RES_SIZE_INFO; "480" at 16:9 is
768 x 432. "112" exists only for tiny and micro.
"""

from __future__ import annotations

from dataclasses import dataclass

from cosmos_core.architecture import model_architecture
from cosmos_core.errors import BadVariant

__all__ = [
    "ASPECT_RATIOS",
    "LATENT_FRAMES",
    "SIZES",
    "VideoGeometry",
    "latent_frames",
    "pixel_frames",
    "video_geometry",
]

SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4

SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "720": {"16:9": (1280, 704), "1:1": (960, 960), "4:3": (960, 704), "3:4": (704, 960), "9:16": (704, 1280)},
    "480": {"16:9": (768, 432), "1:1": (480, 480), "4:3": (640, 480), "3:4": (480, 640), "9:16": (432, 768)},
    "112": {"16:9": (192, 112), "1:1": (112, 112), "4:3": (144, 112), "3:4": (112, 144), "9:16": (112, 192)},
}
"""(width, height) in pixels by resolution and aspect ratio; every number is a multiple of 16."""

ASPECT_RATIOS = ("16:9", "1:1", "4:3", "3:4", "9:16")

LATENT_FRAMES = {16: 24, 10: 16}
"""Latent frames ("state_t") by frames per second: 93 pixel frames at 16, 61 at 10."""


def latent_frames(num_frames: int) -> int:
    """Latent frames that `num_frames` pixel frames encode to (1 -> 1, 5 -> 2, 93 -> 24)."""
    return (num_frames - 1) // TEMPORAL_COMPRESSION + 1


def pixel_frames(num_latent_frames: int) -> int:
    """Pixel frames that `num_latent_frames` latent frames decode to (1 -> 1, 2 -> 5, 24 -> 93)."""
    return (num_latent_frames - 1) * TEMPORAL_COMPRESSION + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoGeometry:
    """Size of one clip in pixels, latents and tokens."""

    width: int
    height: int
    num_latent_frames: int
    fps: int

    @property
    def num_frames(self) -> int:
        return pixel_frames(self.num_latent_frames)

    @property
    def latent_width(self) -> int:
        return self.width // SPATIAL_COMPRESSION

    @property
    def latent_height(self) -> int:
        return self.height // SPATIAL_COMPRESSION

    @property
    def num_tokens(self) -> int:
        """Tokens of one forward: T * (H/2) * (W/2)."""
        return self.num_latent_frames * (self.latent_height // 2) * (self.latent_width // 2)

    @property
    def duration_s(self) -> float:
        return self.num_frames / self.fps


def video_geometry(*, model: str, resolution: str, fps: int, aspect_ratio: str) -> VideoGeometry:
    """The geometry of one variant.

    Raises:
        BadVariant: the model does not exist in that resolution, frame rate or aspect ratio.
    """
    architecture = model_architecture(model)
    if resolution not in architecture.resolutions:
        raise BadVariant(
            f"model {model} has no such resolution", got=resolution, expected=" | ".join(architecture.resolutions)
        )
    if fps not in architecture.fps:
        raise BadVariant(f"model {model} has no such fps", got=fps, expected=" | ".join(map(str, architecture.fps)))
    if aspect_ratio not in SIZES[resolution]:
        raise BadVariant("no such aspect ratio", got=aspect_ratio, expected=" | ".join(ASPECT_RATIOS))
    width, height = SIZES[resolution][aspect_ratio]
    return VideoGeometry(width=width, height=height, num_latent_frames=LATENT_FRAMES[fps], fps=fps)
