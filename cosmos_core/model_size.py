"""How many numbers a model has and how many operations it takes, from its architecture alone.

No torch and no file: plans are made before anything is loaded. Every count is that of the networks themselves, which
the tests build without values to compare.
"""

from __future__ import annotations

import itertools

from cosmos_core.architecture import DiTArchitecture, TextEncoderArchitecture, VAEArchitecture
from cosmos_core.geometry import VideoGeometry

__all__ = [
    "adapted_parameters",
    "dit_parameters",
    "forward_flops",
    "lora_parameters",
    "num_forwards",
    "text_encoder_parameters",
    "vae_parameters",
]

_MASK_CHANNELS = 1
_ADALN_PARTS = 3


def _block_linears(dit: DiTArchitecture) -> list[tuple[int, int]]:
    """(in, out) of the ten linears of a block that adapters are trained on and that 8-bit weights replace."""
    d, text, hidden = dit.model_channels, dit.crossattn_emb_channels, int(dit.model_channels * dit.mlp_ratio)
    return [*[(d, d)] * 6, *[(text, d)] * 2, (d, hidden), (hidden, d)]


def adapted_parameters(dit: DiTArchitecture) -> int:
    """Weights of the ten large linears of all blocks."""
    return dit.num_blocks * sum(inner * outer for inner, outer in _block_linears(dit))


def lora_parameters(dit: DiTArchitecture, rank: int) -> int:
    """Weights of an adapter of that rank on the ten linears of every block."""
    return dit.num_blocks * sum(rank * (inner + outer) for inner, outer in _block_linears(dit))


def dit_parameters(dit: DiTArchitecture) -> int:
    """All weights of the transformer, without adapters."""
    d, bottleneck = dit.model_channels, dit.adaln_lora_dim
    patch = dit.patch_spatial**2 * dit.patch_temporal
    channels = dit.in_channels + _MASK_CHANNELS + int(dit.concat_padding_mask)
    adaln = _ADALN_PARTS * (d * bottleneck + bottleneck * 3 * d)
    norms = 4 * dit.head_dim
    ends = channels * patch * d + (d * d + d * 3 * d) + d
    final = d * patch * dit.out_channels + d * bottleneck + bottleneck * 2 * d
    return adapted_parameters(dit) + dit.num_blocks * (adaln + norms) + ends + final


def text_encoder_parameters(text: TextEncoderArchitecture) -> int:
    """All weights of the T5 encoder."""
    attention = 4 * text.dim * text.num_heads * text.head_dim
    feed_forward = (3 if text.gated else 2) * text.dim * text.hidden_dim
    layers = text.num_layers * (attention + feed_forward + 2 * text.dim)
    return text.vocabulary * text.dim + text.num_position_buckets * text.num_heads + layers + text.dim


def vae_parameters(vae: VAEArchitecture) -> int:
    """All weights of the video VAE, encoder and decoder."""
    return (
        _encoder_parameters(vae)
        + _decoder_parameters(vae)
        + _conv(2 * vae.z_dim, 2 * vae.z_dim, 1)
        + _conv(vae.z_dim, vae.z_dim, 1)
    )


def _encoder_parameters(vae: VAEArchitecture) -> int:
    widths = [vae.dim * factor for factor in (1, *vae.dim_mult)]
    total = _conv(3, widths[0], 27)
    for level, (width, wider) in enumerate(itertools.pairwise(widths)):
        total += _residual(width, wider) + (vae.num_res_blocks - 1) * _residual(wider, wider)
        if level < len(vae.temporal_downsample):
            total += _conv(wider, wider, 9) + vae.temporal_downsample[level] * _conv(wider, wider, 3)
    return total + _middle(widths[-1]) + widths[-1] + _conv(widths[-1], 2 * vae.z_dim, 27)


def _decoder_parameters(vae: VAEArchitecture) -> int:
    widths = [vae.dim * factor for factor in (vae.dim_mult[-1], *reversed(vae.dim_mult))]
    in_time = tuple(reversed(vae.temporal_downsample))
    total = _conv(vae.z_dim, widths[0], 27) + _middle(widths[0])
    for level, (width, wider) in enumerate(itertools.pairwise(widths)):
        given = width if level == 0 else width // 2  # an upsampling halves the channels
        total += _residual(given, wider) + vae.num_res_blocks * _residual(wider, wider)
        if level < len(in_time):
            total += _conv(wider, wider // 2, 9) + in_time[level] * _conv(wider, 2 * wider, 3)
    return total + widths[-1] + _conv(widths[-1], 3, 27)


def _conv(inner: int, outer: int, kernel: int) -> int:
    return inner * outer * kernel + outer


def _residual(inner: int, outer: int) -> int:
    shortcut = _conv(inner, outer, 1) if inner != outer else 0
    return inner + _conv(inner, outer, 27) + outer + _conv(outer, outer, 27) + shortcut


def _middle(width: int) -> int:
    return 2 * _residual(width, width) + width + _conv(width, 3 * width, 1) + _conv(width, width, 1)


def num_forwards(*, num_steps: int, guided: bool, num_chunks: int = 1) -> int:
    """Forwards of a video: one evaluation more than steps, each of two forwards with guidance."""
    return num_chunks * (num_steps + 1) * (2 if guided else 1)


def forward_flops(dit: DiTArchitecture, geometry: VideoGeometry, *, num_text_tokens: int = 512) -> float:
    """Matrix multiplications and attention of one forward (2 FLOPs a multiply-add), AdaLN left out."""
    d, tokens, text = dit.model_channels, geometry.num_tokens, num_text_tokens
    hidden = int(d * dit.mlp_ratio)
    linear = tokens * (4 * d * d + 2 * d * d + 2 * d * hidden) + 2 * text * dit.crossattn_emb_channels * d
    attention = 2 * tokens * tokens * d + 2 * tokens * text * d
    ends = tokens * d * 4 * (dit.in_channels + 2 + dit.out_channels)
    return 2.0 * (dit.num_blocks * (linear + attention) + ends)
