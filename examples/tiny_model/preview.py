"""Pictures of what a network has learned: held-out clips above what the network makes of their first frame."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from cosmos_core.architecture import MODELS
from cosmos_core.conditioning import guided_denoiser
from cosmos_core.dit import DiT
from cosmos_core.pixels import to_bytes
from cosmos_core.sampler import initial_noise, sample, sigma_schedule
from cosmos_core.vae import VideoVAE
from examples.tiny_model.latent_bank import LatentBank

__all__ = ["save_preview"]

_NUM_CLIPS = 6
_FRAMES = (0, 8, 16, 24, 32, 40, 50, 60)
_NUM_STEPS = 20
_GUIDANCE = 1.5


@torch.no_grad()
def save_preview(work: Path, name: str, bank: LatentBank, dit: DiT) -> None:
    """Write `preview-<name>.png`: pairs of rows, the simulator's clip above the network's."""
    held_out = bank.held_out(min(_NUM_CLIPS, len(bank)))
    num = len(held_out.latents)
    shape = tuple(held_out.latents.shape[1:])
    noise = torch.cat([initial_noise((1, *shape), seed) for seed in range(num)]).to(dit.device)
    denoiser = guided_denoiser(
        dit.eval(),
        clean_BCKHW=held_out.latents[:, :, :1].float(),
        prompt_BND=held_out.text,
        negative_BND=bank.no_text.expand(num, -1, -1),
        guidance=_GUIDANCE,
    )
    latents = sample(denoiser, noise, sigma_schedule(_NUM_STEPS))
    path = work / "model" / "tokenizer" / "tokenizer.safetensors"
    vae = VideoVAE.load(path, MODELS["tiny"].vae, device=dit.device, dtype=dit.dtype)
    rows = []
    for index in range(num):
        truth = bank.clips[index].frames()
        made = to_bytes(vae.decode(latents[index : index + 1].to(vae.dtype)))
        rows += [np.concatenate([clip[frame] for frame in _FRAMES], axis=1) for clip in (truth, made)]
    cv2.imwrite(str(work / f"preview-{name}.png"), np.concatenate(rows, axis=0)[..., ::-1])
