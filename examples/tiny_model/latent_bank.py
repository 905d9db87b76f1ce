"""Latents and text embeddings of rendered clips, made once and kept on the device.

Legend: N clips, B batch, C latent channels, T latent frames, H W latent height and width, L text tokens, D text width.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.vae import LATENT_MEAN, LATENT_STD
from examples.tiny_model.clip_files import ClipFile, finished_clips
from examples.tiny_model.vae_sequence import encode_sequence

__all__ = ["LatentBank", "Sample"]

_GROUP = 8


class Sample(NamedTuple):
    """A batch to learn from."""

    latents: Tensor
    """bfloat16 [B, C, T, H, W]."""
    text: Tensor
    """bfloat16 [B, L, D]."""


class LatentBank:
    """Encodes clips of one family as they appear.

    Args:
        folder: of the clip files.
        family: whose clips are taken.
        capacity: how many.
        layers: of the VAE with its normalisation folded in, bfloat16, over whole clips.
        text_encoder: on the same device.
        num_held_out: of the first clips, which `sample` never draws.
    """

    def __init__(
        self,
        folder: Path,
        family: str,
        capacity: int,
        *,
        layers: AutoencoderKLWan,
        text_encoder: TextEncoder,
        num_held_out: int,
    ) -> None:
        self._folder, self._family, self._capacity = folder, family, capacity
        self._layers, self._text_encoder, self._num_held_out = layers, text_encoder, num_held_out
        self._device = text_encoder.device
        shape = (1, len(LATENT_MEAN), 1, 1, 1)
        self._mean = torch.tensor(LATENT_MEAN, device=self._device).reshape(shape)
        self._std = torch.tensor(LATENT_STD, device=self._device).reshape(shape)
        self._latents: list[Tensor] = []
        self._text: list[Tensor] = []
        self.clips: list[ClipFile] = []
        self._no_text = text_encoder.encode(["", DEFAULT_NEGATIVE_PROMPT]).embeddings.bfloat16()

    def __len__(self) -> int:
        return len(self.clips)

    def wait_for(self, num: int) -> None:
        """Encode until there are `num` clips."""
        while self.poll(num) < min(num, self._capacity):
            time.sleep(0.2)

    @torch.no_grad()
    def poll(self, limit: int = _GROUP) -> int:
        """Encode up to about `limit` new clips; returns how many are there."""
        if len(self.clips) >= self._capacity:
            return len(self.clips)
        new = finished_clips(self._folder, self._family)[: self._capacity][len(self.clips) :][:limit]
        for start in range(0, len(new), _GROUP):
            group = new[start : start + _GROUP]
            pixels = torch.from_numpy(np.stack([clip.frames() for clip in group])).to(self._device)
            video = (pixels.permute(0, 4, 1, 2, 3).bfloat16() / 127.5 - 1.0).contiguous(
                memory_format=torch.channels_last_3d
            )
            mean, _ = encode_sequence(self._layers, video)
            self._latents.extend(((mean.float() - self._mean) / self._std).bfloat16())
            captions = [str(clip.about()["caption"]) for clip in group]
            self._text.extend(self._text_encoder.encode(captions).embeddings.bfloat16())
            self.clips.extend(group)
        return len(self.clips)

    def sample(self, batch: int, generator: np.random.Generator, *, text_dropout: float) -> Sample:
        """Clips drawn at random; some without text: half of those empty, half with the default negative prompt."""
        indices = generator.integers(self._num_held_out, len(self.clips), size=batch)
        dropped = generator.random(batch)
        text = [
            self._text[index] if chance >= text_dropout else self._no_text[int(chance * 2 >= text_dropout)]
            for index, chance in zip(indices, dropped, strict=True)
        ]
        return Sample(torch.stack([self._latents[index] for index in indices]), torch.stack(text))

    def held_out(self, num: int) -> Sample:
        """The first clips, with their captions."""
        return Sample(torch.stack(self._latents[:num]), torch.stack(self._text[:num]))

    @property
    def no_text(self) -> Tensor:
        """Embedding of the default negative prompt, bfloat16 [1, L, D]."""
        return self._no_text[1:]
