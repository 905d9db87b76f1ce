"""The micro model's VAE: weights written down in closed form, so that it passes pictures through without training.

Every residual branch is switched off by a zero convolution, which leaves convolutions that can be chosen by hand. What
stands in the way are the norm and the SiLU at the end of each half:

* the norm divides by the length of the channel vector; one channel holds a large constant (a bias), beside which the
  others do not matter, so the division is by a constant, and the norm's weight undoes it;
* silu(x) - silu(-x) = x exactly, so every value is carried twice, with both signs.

The encoder keeps, for each 8 x 8 block and colour, its four quarter means s, as four numbers per block made of two
filters per axis: with A and B of a block, the decoder's nearest-neighbour doubling followed by a convolution can form
s_even(i) = A(i) + B(i) and s_odd(i) = A(i) + B(i + 1). The filters that give A and B are the least-squares solution for
a signal whose neighbours correlate by 0.9, rounded to 64ths. Quarters are interpolated linearly to pixels. In time a
latent frame is the mean of its last two pairs of frames and is shown for four frames.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from cosmos_core.architecture import VAEArchitecture
from cosmos_core.vae import LATENT_MEAN, LATENT_STD, build_layers, native_key_map

__all__ = ["micro_vae_state_dict"]

_COLOURS = 3
_AXES = (0, 1)
_NUM_PARTS = 12
"""Quarter means of three colours; the remaining latent channels stay at their mean."""
_CONSTANT = 1000.0
"""Against values around 1 this makes the norm constant to one part in 100,000."""
_ANALYSIS = (
    (9 / 64, -9 / 64, 29 / 64, 34 / 64, -15 / 64, 16 / 64),
    (-18 / 64, 19 / 64, 24 / 64, -23 / 64, 6 / 64, -8 / 64),
)
"""Filters for A and B over the even and odd half-blocks of the block before, the block itself and the block after."""
_SYNTHESIS = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""What the decoder's 3-tap convolution does with A and with B after doubling."""
_GAINS = (2.2, 7.0, 7.0, 20.0)
"""Brings A A, A B, B A and B B of natural pictures to about unit variance."""


def micro_vae_state_dict(architecture: VAEArchitecture) -> dict[str, Tensor]:
    """All tensors under native names; for a width of 8 or more."""
    layers = build_layers(architecture)
    shapes = {native: layers.state_dict()[name].shape for native, name in native_key_map(layers).items()}
    tensors = {
        name: torch.ones(shape) if name.endswith(".gamma") else torch.zeros(shape) for name, shape in shapes.items()
    }
    for name, tensor in tensors.items():
        if name.endswith(".shortcut.weight"):
            _carry(tensor, min(tensor.shape[:2]))
    _fill_encoder(tensors)
    _fill_decoder(tensors)
    return tensors


def _fill_encoder(tensors: dict[str, Tensor]) -> None:
    _carry(tensors["encoder.conv1.weight"], _COLOURS)
    halvings = sorted((n for n in tensors if n.endswith("resample.1.weight") and "downsamples" in n), key=_index)
    for name in halvings[:-1]:
        tensors[name][:_COLOURS, :_COLOURS, :2, :2] = torch.eye(_COLOURS)[..., None, None] / 4
    for part, (row, column, colour) in enumerate(_parts()):
        tensors[halvings[-1]][part, colour, row, column] = 1.0
        tensors[halvings[-1]][_NUM_PARTS + part, colour, row, column] = -1.0
    for name in (n for n in tensors if n.endswith("time_conv.weight") and "downsamples" in n):
        channels = 2 * _NUM_PARTS if _index(name) == max(_index(n) for n in halvings) else _COLOURS
        for tap in (1, 2):
            tensors[name][:channels, :channels, tap, 0, 0] = torch.eye(channels) / 2

    _make_norm_constant(tensors, "encoder.middle.2.residual.6.bias", "encoder.head.0.gamma")
    head = tensors["encoder.head.2.weight"]
    for part, (row_filter, column_filter, colour) in enumerate(_parts()):
        for source, (row, column, source_colour) in enumerate(_parts()):
            if colour == source_colour:
                rows = torch.tensor(_ANALYSIS[row_filter][row::2])
                columns = torch.tensor(_ANALYSIS[column_filter][column::2])
                head[part, source, -1] = torch.outer(rows, columns)
                head[part, _NUM_PARTS + source, -1] = -torch.outer(rows, columns)
    for channel, (mean, std) in enumerate(zip(LATENT_MEAN, LATENT_STD, strict=True)):
        tensors["conv1.bias"][channel] = mean
        if channel < _NUM_PARTS:
            tensors["conv1.weight"][channel, channel] = std * _GAINS[channel // _COLOURS]


def _fill_decoder(tensors: dict[str, Tensor]) -> None:
    for channel in range(_NUM_PARTS):
        scale = 1 / (LATENT_STD[channel] * _GAINS[channel // _COLOURS])
        tensors["conv2.weight"][channel, channel] = scale
        tensors["conv2.bias"][channel] = -scale * LATENT_MEAN[channel]
    _carry(tensors["decoder.conv1.weight"], _NUM_PARTS)

    doublings = sorted((n for n in tensors if n.endswith("resample.1.weight") and "upsamples" in n), key=_index)
    for part, (row_filter, column_filter, colour) in enumerate(_parts()):
        kernel = torch.outer(torch.tensor(_SYNTHESIS[row_filter]), torch.tensor(_SYNTHESIS[column_filter]))
        tensors[doublings[0]][colour, part] = kernel
    smooth = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    for name in doublings[1:]:
        signs = (1.0, -1.0) if name == doublings[-1] else (1.0,)
        for place, sign in enumerate(signs):
            for colour in range(_COLOURS):
                tensors[name][place * _COLOURS + colour, colour] = sign * smooth
    for name in (n for n in tensors if n.endswith("time_conv.weight") and "upsamples" in n):
        half = tensors[name].shape[0] // 2
        tensors[name][:half, :, -1, 0, 0] = torch.eye(half)
        tensors[name][half:, :, -1, 0, 0] = torch.eye(half)

    last = max(_index(n) for n in tensors if n.startswith("decoder.upsamples."))
    _make_norm_constant(tensors, f"decoder.upsamples.{last}.residual.6.bias", "decoder.head.0.gamma")
    for colour in range(_COLOURS):
        tensors["decoder.head.2.weight"][colour, colour, -1, 1, 1] = 1.0
        tensors["decoder.head.2.weight"][colour, _COLOURS + colour, -1, 1, 1] = -1.0


def _parts() -> Iterator[tuple[int, int, int]]:
    """Row place, column place and colour of the numbers of a block, in channel order."""
    return ((row, column, colour) for row in _AXES for column in _AXES for colour in range(_COLOURS))


def _carry(weight: Tensor, channels: int) -> None:
    """Let a causal convolution pass the present value of the first channels."""
    centre = weight.shape[-1] // 2
    weight[:channels, :channels, -1, centre, centre] = torch.eye(channels)


def _make_norm_constant(tensors: dict[str, Tensor], bias: str, gamma: str) -> None:
    """Set the last channel to the large constant, and the following norm to undo the division by it."""
    tensors[bias][-1] = _CONSTANT
    tensors[gamma][:-1] = _CONSTANT / len(tensors[gamma]) ** 0.5


def _index(name: str) -> int:
    """Place of a block in the native list: the number in `decoder.upsamples.7.resample.1.weight`."""
    return int(name.split(".")[2])
