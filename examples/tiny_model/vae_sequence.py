"""The video VAE over a whole clip at once, with gradients.

`cosmos_core.vae` runs in chunks of one latent frame and carries the last inputs of every causal convolution on. Here
the same layers see the clip at once, which trains faster; a test holds the two together. Differences of the layers at
the clip's start that the chunks make are kept: the first frame is never merged with others, nor doubled, in time.

Legend: B batch, C latent channels, T latent frames, F = 4 (T - 1) + 1 pixel frames, H W height and width.
"""

from __future__ import annotations

from types import MethodType

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, WanRMS_norm
from torch import Tensor

from cosmos_core.architecture import VAEArchitecture
from cosmos_core.vae import build_layers

__all__ = ["decode_sequence", "encode_sequence", "trainable_layers"]


def trainable_layers(architecture: VAEArchitecture, *, seed: int, device: torch.device | str) -> AutoencoderKLWan:
    """Freshly initialised layers that run over whole clips, float32."""
    torch.manual_seed(seed)
    layers = build_layers(architecture).to_empty(device=device)
    for module in layers.modules():
        if isinstance(module, WanRMS_norm):
            torch.nn.init.ones_(module.gamma)
            module.forward = MethodType(_norm, module)  # type: ignore[method-assign]
        elif isinstance(module, WanResample):
            module.forward = MethodType(_resample, module)  # type: ignore[method-assign]
        elif hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return layers


def encode_sequence(layers: AutoencoderKLWan, video_BCFHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, each [B, C, T, H/8, W/8], of pixels in [-1, 1]."""
    mean, log_variance = layers.quant_conv(layers.encoder(video_BCFHW)).chunk(2, dim=1)
    return mean, log_variance.clamp(-20.0, 10.0)


def decode_sequence(layers: AutoencoderKLWan, latents_BCTHW: Tensor) -> Tensor:
    """Pixels [B, 3, F, 8H, 8W] of latents as `encode_sequence` gives them."""
    return layers.decoder(layers.post_quant_conv(latents_BCTHW))


def _norm(self: WanRMS_norm, x: Tensor) -> Tensor:
    # x / |x| * sqrt(C) over the channels is the RMS norm without an epsilon, in one kernel.
    weight = self.gamma.flatten()
    return F.rms_norm(x.movedim(1, -1), weight.shape, weight, 1e-12).movedim(-1, 1)


def _resample(self: WanResample, x: Tensor, feat_cache: None = None, feat_idx: object = None) -> Tensor:
    if self.mode == "upsample3d":
        x = _double_time(self, x)
    frames = x.shape[2]
    x = self.resample(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (-1, frames)).transpose(1, 2)
    if self.mode == "downsample3d":
        x = torch.cat([x[:, :, :1], self.time_conv(x)], dim=2) if frames > 1 else x
    return x


def _double_time(self: WanResample, x_BCTHW: Tensor) -> Tensor:
    first, others = x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]
    if others.shape[2] == 0:
        return first
    pairs = self.time_conv(others).unflatten(1, (2, -1))
    return torch.cat([first, torch.stack(pairs.unbind(1), dim=3).flatten(2, 3)], dim=2)
