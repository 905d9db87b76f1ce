"""From trained layers to the VAE's file: normalised latents, native names, bfloat16.

The VAE of the product normalises latents with constants that belong to the published Wan VAE. Latents of this one have
other means and deviations; the difference is folded into the two convolutions next to the latents, so that the same
code gives latents of mean 0 and deviation 1.

Legend: C latent channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_core.architecture import MODELS
from cosmos_core.vae import LATENT_MEAN, LATENT_STD, native_key_map
from examples.tiny_model.vae_sequence import encode_sequence, trainable_layers

__all__ = ["VAE_FILE", "fold_normalisation", "latent_statistics", "load_vae", "save_vae"]

VAE_FILE = Path("tokenizer/tokenizer.safetensors")
"""In the model's folder."""


@torch.no_grad()
def latent_statistics(layers: AutoencoderKLWan, videos: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] of the latents of some videos, each [B, 3, F, H, W] in [-1, 1]."""
    means = torch.cat([encode_sequence(layers, video)[0].float().movedim(1, 0).flatten(1) for video in videos], dim=1)
    return means.mean(dim=1), means.std(dim=1)


@torch.no_grad()
def fold_normalisation(layers: AutoencoderKLWan, mean_C: Tensor, std_C: Tensor) -> None:
    """Change the layers such that the product's normalisation gives latents of mean 0 and deviation 1."""
    target_mean = torch.tensor(LATENT_MEAN, device=mean_C.device)
    scale = torch.tensor(LATENT_STD, device=mean_C.device) / std_C
    num = len(LATENT_MEAN)
    into, out_of = layers.quant_conv, layers.post_quant_conv
    into.weight[:num] *= scale[:, None, None, None, None].to(into.weight)
    into.bias[:num] = (into.bias[:num].float() - mean_C) * scale + target_mean
    into.bias[num:] += 2 * scale.log().to(into.bias)
    shift = mean_C - target_mean / scale
    out_of.bias += out_of.weight[:, :, 0, 0, 0].float() @ shift
    out_of.weight /= scale[None, :, None, None, None].to(out_of.weight)


def load_vae(path: Path, *, device: torch.device) -> AutoencoderKLWan:
    """Layers of a saved VAE that run over whole clips, bfloat16, without gradients."""
    layers = trainable_layers(MODELS["tiny"].vae, seed=0, device=device)
    names = native_key_map(layers)
    layers.load_state_dict({names[key]: value for key, value in load_file(path).items()}, strict=True)
    return layers.bfloat16().eval().requires_grad_(False)


def save_vae(layers: AutoencoderKLWan, path: Path) -> None:
    """Write the layers, bfloat16, in the native layout."""
    state_dict = layers.state_dict()
    tensors = {
        native: state_dict[name].detach().to("cpu", torch.bfloat16).contiguous()
        for native, name in native_key_map(layers).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
