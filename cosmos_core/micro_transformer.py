"""The micro model's transformer: random numbers, around a hand-made path that copies the first frame.

Without the path, every frame but the first would be noise and nobody could tell from a video whether the input reached
it. The path is one attention layer and one linear map. Coordinates of the residual stream:

* OWN: the scaled latents u of a token, as far as the VAE uses them; COPY: the same of the conditioning frame, g,
  brought by two heads of the first self-attention. Their queries and keys are constants, so the logits are sums of
  cos(angle * distance) and peak at distance 0 in height and width; a pair whose angle is next to nothing prefers the
  tokens that carry the condition mask.
* LEVEL and MASK: large constants that make the norms divide by a known number. A token without a mask gets its LEVEL
  with the copy. ZERO is always 0, so that it shows the mean that the norm subtracted.
* SCRATCH: what all the random layers write, and read besides OWN and COPY.

The output is v = p u - q g plus a random part of SCRATCH. Put into the sampler's equation, that ends at
q (1 - e^-p) / p g + e^-p noise: the picture, with a trace of noise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.dit import DiT
from cosmos_core.random_tensor import random_tensor

__all__ = ["CONSTANT_COORDINATES", "micro_transformer_state_dict"]

_CHANNELS = 12
"""Latent channels that the micro VAE uses."""
_PATCH = 4
"""Latent pixels of a token."""
_WIDTH = _CHANNELS * _PATCH
_OWN = slice(0, _WIDTH)
_COPY = slice(_WIDTH, 2 * _WIDTH)
_LEVEL, _MASK, _ZERO = 96, 97, 127
CONSTANT_COORDINATES = (_LEVEL, _MASK, _ZERO)
_SCRATCH = slice(98, 127)
_READABLE = [*range(2 * _WIDTH), *range(98, 127)]

_LARGE = 100.0
_DIVISOR = _LARGE * math.sqrt(127) / 128
"""Standard deviation of 128 numbers of which one is large: what the norms divide by."""
_NOISE_LEFT = 1.5
"""p: e^-1.5 = 0.22 of the initial noise stays."""
_COPY_GAIN = _NOISE_LEFT / (1 - math.exp(-_NOISE_LEFT))
_SPATIAL_SHARPNESS = 40.0  # a patch away: logit lower by 7
_MASK_SHARPNESS = 80.0  # without the mask: logit lower by 30
_RANDOM_VELOCITY = 0.02
"""Weight of SCRATCH in the output; guidance multiplies what depends on the prompt by eight."""
_TEXT_STRENGTH = 2.0
"""How much louder than the other random layers cross-attention is, so that a prompt can be told from another."""


def micro_transformer_state_dict(architecture: DiTArchitecture, *, seed: int) -> dict[str, Tensor]:
    """All tensors under plain names, float32; for the micro architecture alone."""
    assert (architecture.model_channels, architecture.head_dim) == (128, 32)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DiT(architecture).state_dict().items()}
    tensors = {name: _random_weight(name, shape, seed) for name, shape in shapes.items()}
    _fill_embedding(tensors["x_embedder.proj.1.weight"])
    for name, tensor in tensors.items():
        if "adaln_modulation" in name and name.endswith(".1.weight"):
            _fill_constant_input(tensor)
        elif "adaln_modulation" in name:
            first = name.startswith("blocks.0.adaln_modulation_self_attn")
            _fill_modulation(tensor, scale=0.0 if first else _DIVISOR - 1)
    _fill_first_attention(tensors)
    _fill_output(tensors["final_layer.linear.weight"])
    return tensors


def _random_weight(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Random numbers where random layers read and write, zero elsewhere."""
    if "norm" in name:
        return torch.ones(shape)
    weight = random_tensor(name, shape, seed=seed, std=shape[-1] ** -0.5)
    if name == "final_layer.linear.weight":
        return _RANDOM_VELOCITY * _DIVISOR * _only(weight, columns=_SCRATCH)
    if name.endswith(("output_proj.weight", "mlp.layer2.weight", "x_embedder.proj.1.weight")):
        return (_TEXT_STRENGTH if "cross_attn" in name else 1.0) * _only(weight, rows=_SCRATCH)
    if name.endswith("t_embedder.1.linear_2.weight") or ("adaln" in name and name.endswith(".2.weight")):
        parts = [_only(part, rows=_SCRATCH) for part in torch.split(weight, 128)]
        return 0.3 * torch.cat(parts)
    if "adaln" in name or "t_embedder" in name or "cross_attn.k_proj" in name or "cross_attn.v_proj" in name:
        return weight
    readable = torch.zeros(shape)
    readable[:, _READABLE] = weight[:, _READABLE]
    return readable


def _only(weight: Tensor, *, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
    kept = torch.zeros_like(weight)
    kept[rows, columns] = weight[rows, columns]
    return kept


def _fill_embedding(weight: Tensor) -> None:
    weight[_OWN, :_WIDTH] = torch.eye(_WIDTH)
    weight[_MASK, 64:68] = _LARGE / _PATCH  # the condition mask comes after 16 latent channels


def _fill_constant_input(weight: Tensor) -> None:
    """Let the first number of the bottleneck be 1: the slowest cosine of the time embedding does not move."""
    slowest = 63
    embedding = math.sqrt(2)  # 1, divided by the root mean square of cosines and sines
    weight[0] = 0.0
    weight[0, slowest] = (1 + math.exp(-embedding)) / embedding


def _fill_modulation(weight: Tensor, *, scale: float) -> None:
    """Undo the norm's division, and open the gate."""
    weight[:, 0] = 0.0
    weight[128:256, 0] = scale
    weight[256:, 0] = 1.0


def _fill_first_attention(tensors: dict[str, Tensor]) -> None:
    name = "blocks.0.self_attn"
    tensors["blocks.0.adaln_modulation_self_attn.2.weight"][_ZERO, 0] = 1.0  # the shift: a constant to read below
    mask = _LARGE / _DIVISOR  # of the mask after the norm
    query, key = tensors[f"{name}.q_proj.weight"], tensors[f"{name}.k_proj.weight"]
    value, output = tensors[f"{name}.v_proj.weight"], tensors[f"{name}.output_proj.weight"]
    # Pairs of a head of 32: 6 of time (the last hardly turns), 5 of height, 5 of width (the first two turn fastest).
    slowest_time, spatial = 5, [6, 7, 11, 12]
    for head in (0, 1):
        rows = slice(32 * head, 32 * head + 32)
        for weight in (query, key, value):
            weight[rows] = 0.0
        for pair in (slowest_time, *spatial):
            query[32 * head + pair, _ZERO] = 1.0
        for pair in spatial:
            key[32 * head + pair, _ZERO] = 1.0
        key[32 * head + slowest_time, _MASK] = 2.0 / mask
    sharpness = tensors[f"{name}.q_norm.weight"]
    length = math.sqrt((1 + len(spatial)) / 32)  # the norm divides the constant query by this
    sharpness[spatial] = _SPATIAL_SHARPNESS * length
    sharpness[slowest_time] = _MASK_SHARPNESS * length

    output[:, :64] = 0.0
    for place in range(_WIDTH):
        value[place, place] = _DIVISOR
        value[place, _SCRATCH.start :] = 0.0
        value[place, _LEVEL] = -_DIVISOR  # still 0 in the first layer: shows the mean that the norm subtracted
        output[_COPY.start + place, place] = 1.0
    value[_WIDTH, _MASK], value[_WIDTH, _LEVEL] = _DIVISOR, -_DIVISOR
    output[_LEVEL, _WIDTH] = 1.0


def _fill_output(weight: Tensor) -> None:
    """v = p u - q g; patches are unpacked with the channel as the fastest index, and packed with it as the slowest."""
    for channel in range(_CHANNELS):
        for pixel in range(_PATCH):
            row, place = pixel * 16 + channel, channel * _PATCH + pixel
            # The modulation of the output has already undone the division.
            weight[row, _OWN.start + place] += _NOISE_LEFT
            weight[row, _COPY.start + place] -= _COPY_GAIN
            weight[row, _ZERO] += _COPY_GAIN - _NOISE_LEFT
