"""The Wan 2.1 video VAE: 8 times smaller in space, 4 times in time, causal.

The layers are those of diffusers, filled from a checkpoint in the native layout (`tokenizer.pth`). Both directions run
in chunks of one latent frame that hand the last inputs of every causal convolution on, so memory does not grow with
the clip; the first latent frame sees the first pixel frame alone, the second the first five, and so on.

Legend: B batch, C latent channels (16), T latent frames, F = 4 (T - 1) + 1 pixel frames, H W height and width.
Source: reference file cosmos_predict2/tokenizers/tokenizer.py.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from torch import Tensor, nn

from cosmos_core.architecture import VAEArchitecture
from cosmos_core.errors import BadRequest, CheckpointMismatch
from cosmos_core.geometry import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, pixel_frames
from cosmos_core.vae_strips import decode_in_strips
from cosmos_core.weights_file import read_state_dict

__all__ = ["LATENT_MEAN", "LATENT_STD", "VideoVAE", "build_layers", "native_key_map"]

# fmt: off
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on
"""Mean and standard deviation of each latent channel over the training data."""

_SHOWN_KEYS = 4
_ONEDNN_SIZE = 20480


class VideoVAE:
    """Encoder and decoder between pixels in [-1, 1] and normalised latents.

    Args:
        layers: the network; its parameters decide device and dtype.

    Attributes:
        strip_rows: height of the strips to decode in, see `cosmos_core.vae_strips`; None decodes undivided.
    """

    def __init__(self, layers: AutoencoderKLWan) -> None:
        self.strip_rows: int | None = None
        self._layers = layers.eval().requires_grad_(False)
        parameter = next(layers.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        if self.device.type == "cpu" and self.dtype == torch.float32:
            for module in layers.modules():
                if isinstance(module, nn.Conv3d):
                    _avoid_slow_path(module)
        shape = (1, len(LATENT_MEAN), 1, 1, 1)
        # All three are rounded to the dtype of the weights one after the other, as the shipping bfloat16 path does.
        self._mean = torch.tensor(LATENT_MEAN, dtype=self.dtype, device=self.device).reshape(shape)
        self._inverse_std = 1.0 / torch.tensor(LATENT_STD, dtype=self.dtype, device=self.device).reshape(shape)

    @classmethod
    def load(
        cls,
        path: Path | str,
        architecture: VAEArchitecture,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> VideoVAE:
        """Load a VAE in the native layout.

        Raises:
            CheckpointMissing: there is no such file.
            CheckpointMismatch: names or shapes are not exactly those of the architecture.
        """
        return cls.from_state_dict(read_state_dict(path), architecture, device=device, dtype=dtype, source=str(path))

    @classmethod
    def from_state_dict(
        cls,
        state_dict: dict[str, Tensor],
        architecture: VAEArchitecture,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        source: str = "the state dict",
    ) -> VideoVAE:
        """Fill the network from tensors in the native layout.

        Raises:
            CheckpointMismatch: names or shapes are not exactly those of the architecture.
        """
        layers = build_layers(architecture)
        names = native_key_map(layers)
        expected = {native: tuple(layers.state_dict()[name].shape) for native, name in names.items()}
        _require_exact(state_dict, expected, source)
        tensors = {names[key]: value.to(device, dtype, copy=True) for key, value in state_dict.items()}
        layers.load_state_dict(tensors, strict=True, assign=True)
        return cls(layers)

    @torch.no_grad()
    def encode(self, video_BCFHW: Tensor) -> Tensor:
        """Normalised latents [B, 16, T, H/8, W/8] of pixels [B, 3, F, H, W] in [-1, 1], in the dtype of the pixels.

        Raises:
            BadRequest: F is not 4 k + 1, or height or width is no multiple of 8.
        """
        num_frames, height, width = video_BCFHW.shape[2:]
        if num_frames % TEMPORAL_COMPRESSION != 1 or height % SPATIAL_COMPRESSION or width % SPATIAL_COMPRESSION:
            raise BadRequest(
                "size of a video to encode",
                got=f"{num_frames} frames of {width} x {height}",
                expected="4 k + 1 frames and multiples of 8",
            )
        encoder = self._layers.encoder
        video = video_BCFHW.to(self.device, self.dtype)
        carried = _empty_cache(encoder)
        chunks = [video[:, :, :1], *torch.split(video[:, :, 1:], TEMPORAL_COMPRESSION, dim=2)]
        hidden = [encoder(chunk, feat_cache=carried, feat_idx=[0]) for chunk in chunks if chunk.shape[2]]
        moments = self._layers.quant_conv(torch.cat(hidden, dim=2))
        mean = moments.chunk(2, dim=1)[0]  # the other half is a variance that nothing samples from
        return ((mean - self._mean) * self._inverse_std).to(video_BCFHW.dtype)

    @torch.no_grad()
    def decode(self, latents_BCTHW: Tensor) -> Tensor:
        """Pixels [B, 3, F, 8H, 8W], nominally in [-1, 1] and not clamped, in the dtype of the latents."""
        batch, _, num_latents, height, width = latents_BCTHW.shape
        latents = latents_BCTHW.to(self.device, self.dtype) / self._inverse_std + self._mean
        hidden = self._layers.post_quant_conv(latents)
        size = (height * SPATIAL_COMPRESSION, width * SPATIAL_COMPRESSION)
        video = torch.empty((batch, 3, pixel_frames(num_latents), *size), dtype=latents_BCTHW.dtype, device=self.device)
        decoder = self._layers.decoder
        if self.strip_rows is not None:
            decode_in_strips(decoder, hidden, video, strip_rows=self.strip_rows)
            return video
        carried = _empty_cache(decoder)
        for index in range(num_latents):
            frames = decoder(hidden[:, :, index : index + 1], feat_cache=carried, feat_idx=[0], first_chunk=index == 0)
            end = pixel_frames(index + 1)
            video[:, :, end - frames.shape[2] : end] = frames
        return video


def build_layers(architecture: VAEArchitecture) -> AutoencoderKLWan:
    """The network without values, on the meta device."""
    with torch.device("meta"):
        return AutoencoderKLWan(
            base_dim=architecture.dim,
            z_dim=architecture.z_dim,
            dim_mult=list(architecture.dim_mult),
            num_res_blocks=architecture.num_res_blocks,
            attn_scales=[],
            temperal_downsample=list(architecture.temporal_downsample),
        )


def native_key_map(layers: AutoencoderKLWan) -> dict[str, str]:
    """Names in the native layout to names in diffusers' layout, for every tensor of the network."""
    blocks = [len(block.resnets) + (block.upsamplers is not None) for block in layers.decoder.up_blocks]
    first = [sum(blocks[:index]) for index in range(len(blocks))]
    names = {_native_name(name, first, blocks): name for name in layers.state_dict()}
    assert len(names) == len(layers.state_dict())
    return names


_SINGLE = {
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
    **{f"{half}.conv_in": f"{half}.conv1" for half in ("encoder", "decoder")},
    **{f"{half}.norm_out": f"{half}.head.0" for half in ("encoder", "decoder")},
    **{f"{half}.conv_out": f"{half}.head.2" for half in ("encoder", "decoder")},
}
"""Layers that stand alone."""
_PARTS = {
    "mid_block.resnets.0.": "middle.0.",
    "mid_block.attentions.0.": "middle.1.",
    "mid_block.resnets.1.": "middle.2.",
    "down_blocks.": "downsamples.",
    # The native residual block is one list: norm, SiLU, conv, norm, SiLU, dropout, conv.
    ".norm1.": ".residual.0.",
    ".conv1.": ".residual.2.",
    ".norm2.": ".residual.3.",
    ".conv2.": ".residual.6.",
    ".conv_shortcut.": ".shortcut.",
}
_UP_BLOCK = re.compile(r"up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.")


def _native_name(name: str, first: list[int], blocks: list[int]) -> str:
    """The native name of a tensor; `first` and `blocks` give the first index and the number of blocks of each level."""
    module, _, tensor = name.rpartition(".")
    if module in _SINGLE:
        return f"{_SINGLE[module]}.{tensor}"

    def flat(match: re.Match[str]) -> str:
        # diffusers nests the decoder's blocks by level; natively they are one list, upsamplers included.
        level = int(match[1])
        place = int(match[2]) if match[2] is not None else blocks[level] - 1
        return f"upsamples.{first[level] + place}."

    name = _UP_BLOCK.sub(flat, name)
    for part, replacement in _PARTS.items():
        name = name.replace(part, replacement)
    return name


def _avoid_slow_path(convolution: nn.Conv3d) -> None:
    """Make a small convolution of one sample run as one of two, of which the second is dropped.

    On a CPU, PyTorch sends float32 3-D convolutions to oneDNN only if they have several samples or B * C * T * H is
    above 20480 (ConvParams::use_mkldnn); its own path takes six times as long for the same sample.
    """
    plain = convolution._conv_forward

    def paired(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[0] > 1 or math.prod(x.shape[:4]) > _ONEDNN_SIZE:
            return plain(x, weight, bias)
        return plain(x.repeat(2, 1, 1, 1, 1), weight, bias)[:1]

    convolution._conv_forward = paired  # type: ignore[method-assign, assignment]


def _empty_cache(network: nn.Module) -> list[Any]:
    """One place for every causal convolution to hand its last inputs on to the next chunk."""
    return [None] * sum(isinstance(module, WanCausalConv3d) for module in network.modules())


def _require_exact(state_dict: dict[str, Tensor], expected: dict[str, tuple[int, ...]], source: str) -> None:
    """Compare names and shapes, nothing may be missing, left over or of another shape.

    Raises:
        CheckpointMismatch: they differ.
    """
    missing, unexpected = expected.keys() - state_dict.keys(), state_dict.keys() - expected.keys()
    wrong = {key for key in expected.keys() & state_dict.keys() if tuple(state_dict[key].shape) != expected[key]}
    if not (missing or unexpected or wrong):
        return
    if wrong and not missing and not unexpected:
        key = min(wrong)
        raise CheckpointMismatch(
            f"{source} is a video VAE of another size, first at {key}",
            got=tuple(state_dict[key].shape),
            expected=expected[key],
            fix="Give the tokenizer file of the same model.",
        )
    found = [
        f"{len(keys)} {kind} ({', '.join(sorted(keys)[:_SHOWN_KEYS])}, ...)"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    raise CheckpointMismatch(
        f"{source} is no video VAE in the native layout",
        got="; ".join(found),
        expected=f"{len(expected)} tensors such as encoder.conv1.weight",
        fix="Give the tokenizer.pth of the model's repository.",
    )
