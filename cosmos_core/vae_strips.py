"""The decoder's last levels strip by strip: the same pixels in about half of the memory.

The levels of large pictures take most of a decode's memory, and all of them are local: an output row needs only rows
around it. So everything before the last two upsamplings runs whole, for all latent frames; from there on one strip of
rows after the other runs through all frames, with as many rows more on either side as the convolutions reach, which are
cut off again. Attention, which sees the whole picture, lies in the first part. The result differs from an undivided
decode by the rounding of kernels that are chosen by shape, and by nothing else; the rows of overlap cost time.

Legend: B batch, C channels, T latent frames, F pixel frames, H W height and width of the level at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanDecoder3d
from torch import Tensor, nn

__all__ = ["decode_in_strips"]

_SCALE = 4
_KEPT_FRAMES = 2
"""Last inputs that a causal convolution over three frames keeps."""


def decode_in_strips(decoder: WanDecoder3d, hidden_BCTHW: Tensor, video_BCFHW: Tensor, *, strip_rows: int) -> None:
    """Decode latents into a video.

    Args:
        decoder: its last two upsamplings double height and width.
        hidden_BCTHW: what the decoder is given.
        video_BCFHW: [B, 3, 4 (T - 1) + 1, 8H, 8W], which is filled.
        strip_rows: of one strip, at a quarter of the video's height.
    """
    whole = list(_whole_part(decoder, hidden_BCTHW))
    reach = _rows_of_overlap(decoder)
    height = whole[0].shape[3]
    for top in range(0, height, strip_rows):
        bottom = min(top + strip_rows, height)
        first, last = max(0, top - reach), min(height, bottom + reach)
        inner = slice(_SCALE * (top - first), _SCALE * (bottom - first))
        end = 0
        for frames in _strip_part(decoder, (x[:, :, :, first:last] for x in whole)):
            start, end = end, end + frames.shape[2]
            video_BCFHW[:, :, start:end, _SCALE * top : _SCALE * bottom] = frames[:, :, :, inner]


def _whole_part(decoder: WanDecoder3d, hidden_BCTHW: Tensor) -> Iterator[Tensor]:
    """What comes before the last but one upsampling, for one latent frame after the other."""
    carried = _nothing_carried(decoder)
    *levels, before, _, _ = decoder.up_blocks
    for latent in torch.split(hidden_BCTHW, 1, dim=2):
        place = [0]
        x = _causal(decoder.conv_in, latent, carried, place)
        for part in (decoder.mid_block, *levels, *before.resnets):
            x = part(x, feat_cache=carried, feat_idx=place)
        yield x


def _strip_part(decoder: WanDecoder3d, strips: Iterable[Tensor]) -> Iterator[Tensor]:
    """Pixels of one strip of rows, chunk by chunk."""
    carried = _nothing_carried(decoder)
    *_, before, small, large = decoder.up_blocks
    for x in strips:
        place = [0]
        for part in (before.upsamplers[0], small, large):
            x = part(x, feat_cache=carried, feat_idx=place)
        yield _causal(decoder.conv_out, decoder.nonlinearity(decoder.norm_out(x)), carried, place)


def _causal(convolution: WanCausalConv3d, x_BCTHW: Tensor, carried: list[Any], place: list[int]) -> Tensor:
    """One causal convolution, which is given the last inputs of the chunk before and leaves its own."""
    before = carried[place[0]]
    kept = x_BCTHW[:, :, -_KEPT_FRAMES:].clone()
    if kept.shape[2] < _KEPT_FRAMES and before is not None:
        kept = torch.cat([before[:, :, -1:], kept], dim=2)
    result: Tensor = convolution(x_BCTHW, before)
    carried[place[0]] = kept
    place[0] += 1
    return result


def _rows_of_overlap(decoder: WanDecoder3d) -> int:
    """Rows before the last but one upsampling that an output row depends on, to either side."""
    *_, before, small, large = decoder.up_blocks
    at_half = _reach(before.upsamplers[0]) + _reach(small.resnets)
    at_full = _reach(small.upsamplers[0]) + _reach(large) + _reach(decoder.conv_out)
    return math.ceil(at_half / 2 + at_full / 4)


def _reach(part: nn.Module) -> int:
    """Rows that a chain of layers sees to either side; side branches have kernels of one row."""
    convolutions = (module for module in part.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    return sum(convolution.kernel_size[-2] // 2 for convolution in convolutions)


def _nothing_carried(network: nn.Module) -> list[Any]:
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())
