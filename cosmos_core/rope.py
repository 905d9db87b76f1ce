"""Three-axis rotary position embedding.

The head dimension is split into a time, a height and a width part. Released networks cast their position buffers to
bfloat16 together with the weights, so the angles they were trained and are run with carry up to 0.3 rad of rounding at
the far end of a 720p grid; `table_dtype=torch.bfloat16` reproduces that, `torch.float32` gives the exact angles.

Legend: B batch, L tokens in t, h, w order, H heads, D head dimension.
Source: reference file cosmos_predict2/models/text2image_dit.py, VideoRopePosition3DEmb.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.errors import BadVariant

__all__ = ["apply_rope", "rope_angles"]

_THETA = 10000.0
_BASE_FPS = 24.0
"""Frame rate at which frame-rate modulation leaves positions as they are."""


def rope_angles(
    architecture: DiTArchitecture,
    *,
    num_latent_frames: int,
    latent_height: int,
    latent_width: int,
    table_dtype: torch.dtype = torch.float32,
    fps: float | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Angles of every token, float32 [L, D], the second half of D a copy of the first.

    Args:
        num_latent_frames: latent frames T.
        latent_height: latent rows, a multiple of the patch size.
        latent_width: latent columns, a multiple of the patch size.
        table_dtype: precision of positions, frequencies and their products.
        fps: frames per second; read only by architectures with frame-rate modulation.

    Raises:
        BadVariant: the grid is larger than the architecture allows, or not a whole number of patches.
    """
    _check_grid(architecture, num_latent_frames, latent_height, latent_width)
    patch = architecture.patch_spatial
    num_rows, num_columns = latent_height // patch, latent_width // patch
    dim = architecture.head_dim
    dim_space = dim // 6 * 2
    dim_time = dim - 2 * dim_space
    frames = torch.arange(num_latent_frames // architecture.patch_temporal, dtype=table_dtype)
    if architecture.rope_enable_fps_modulation and fps is not None:
        frames = frames / fps * _BASE_FPS
    rows = torch.arange(num_rows, dtype=table_dtype)
    columns = torch.arange(num_columns, dtype=table_dtype)
    # The axes are computed on the CPU whatever the device, so that rounding is the same on every device.
    time = _axis_angles(frames, dim_time, architecture.rope_t_extrapolation_ratio).to(device)
    height = _axis_angles(rows, dim_space, architecture.rope_h_extrapolation_ratio).to(device)
    width = _axis_angles(columns, dim_space, architecture.rope_w_extrapolation_ratio).to(device)
    grid = (len(frames), num_rows, num_columns)
    half = torch.cat(
        [
            time[:, None, None, :].expand(*grid, -1),
            height[None, :, None, :].expand(*grid, -1),
            width[None, None, :, :].expand(*grid, -1),
        ],
        dim=-1,
    ).flatten(0, 2)
    return torch.cat([half, half], dim=-1)


def apply_rope(x_BLHD: Tensor, cos_LD: Tensor, sin_LD: Tensor) -> Tensor:
    """Rotate element i of every head with element i + D/2; float32 inside, one rounding to the input's dtype.

    Args:
        x_BLHD: queries or keys.
        cos_LD: cosine of `rope_angles`, float32.
        sin_LD: sine of `rope_angles`, float32.
    """
    x = x_BLHD.float()
    first, second = x.chunk(2, dim=-1)
    rotated = torch.cat([-second, first], dim=-1)
    return (x * cos_LD[:, None, :] + rotated * sin_LD[:, None, :]).to(x_BLHD.dtype)


def _axis_angles(positions: Tensor, dim: int, ratio: float) -> Tensor:
    """Angles of one axis, float32 [positions, dim / 2]; rounded at every step to the dtype of `positions`."""
    theta = _THETA * ratio ** (dim / (dim - 2))
    exponents = (torch.arange(0, dim, 2, dtype=torch.float32) / dim).to(positions.dtype)
    frequencies = 1.0 / theta**exponents
    return torch.outer(positions, frequencies).float()


def _check_grid(architecture: DiTArchitecture, num_frames: int, height: int, width: int) -> None:
    patch = architecture.patch_spatial
    if height % patch or width % patch or num_frames % architecture.patch_temporal:
        raise BadVariant(
            "the latent grid is not a whole number of patches",
            got=f"{num_frames} x {height} x {width}",
            expected=f"multiples of {architecture.patch_temporal} x {patch} x {patch}",
        )
    limits = (architecture.max_frames, architecture.max_img_h, architecture.max_img_w)
    if any(size > limit for size, limit in zip((num_frames, height, width), limits, strict=True)):
        raise BadVariant(
            "the latent grid is larger than the model's position embedding",
            got=f"{num_frames} x {height} x {width}",
            expected="at most " + " x ".join(map(str, limits)),
        )
