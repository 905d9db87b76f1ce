"""How well a VAE gives simulator clips back, as a whole and where something moves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from benchmarks.clip_measures import psnr
from benchmarks.foreground import find_foreground
from cosmos_core.architecture import MODELS
from cosmos_core.pixels import normalise, to_bytes
from cosmos_core.vae import VideoVAE
from examples.traffic_world import make_clip

__all__ = ["vae_fidelity"]


def vae_fidelity(path: Path, seeds: Iterable[int], num_frames: int = 61) -> list[dict[str, float]]:
    """PSNR in dB of the reconstruction of each scene's ordinary clip, all of it and its moving pixels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae = VideoVAE.load(path, MODELS["tiny"].vae, device=device, dtype=torch.float32)
    rows = []
    for seed in seeds:
        clip = make_clip(seed, num_frames=num_frames)
        pixels = torch.from_numpy(np.ascontiguousarray(clip.frames.transpose(3, 0, 1, 2)))[None].to(device)
        again = to_bytes(vae.decode(vae.encode(normalise(pixels, dtype=torch.float32))))
        moving = find_foreground(clip.frames, clip.background).moving_THW
        around = psnr(clip.frames, again, moving) if moving.any() else float("nan")
        rows.append({"seed": float(seed), "psnr": psnr(clip.frames, again), "moving_psnr": around})
    return rows
