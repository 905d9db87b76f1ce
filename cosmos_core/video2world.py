"""Frames and text embeddings in, frames out: the one place where VAE, sampler and network meet.

The causal VAE's first latent depends on the first frame alone and the second on the first five, so only the
conditioning frames are encoded, not the clip that the reference pads them to; the latents are the same.

Precision follows the weights: with bfloat16 weights, pixels, VAE and network are bfloat16 and everything between the
network's calls is float32, as in the reference; with float32 weights all of it is float32.

Legend: B batch (always 1), C latent channels, T latent frames or pixel frames, H W height and width, N text tokens,
D text width.
Source: reference file cosmos_predict2/pipelines/video2world.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosmos_core.clip_sampling import ClipInputs, OnStep, sample_clip
from cosmos_core.context_parallel import ContextParallel
from cosmos_core.dit import DiT
from cosmos_core.errors import BadRequest, OutOfMemory
from cosmos_core.geometry import VideoGeometry
from cosmos_core.pixels import normalise, to_bytes
from cosmos_core.sampler import initial_noise, sigma_schedule
from cosmos_core.vae import VideoVAE

__all__ = ["Chunk", "Generation", "OnStep", "Video2World", "long_video_frames"]

_CONDITIONAL_FRAMES = (1, 5)


@dataclass(frozen=True, slots=True)
class Generation:
    """One clip."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], the conditioning frames first (as the VAE gives them back)."""
    latents: Tensor
    """float32 [1, C, T, H, W], before decoding."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of a long video."""

    index: int
    seed: int
    frames: np.ndarray
    """uint8 [T, H, W, 3], all frames of the clip."""
    num_overlap_frames: int
    """How many of them repeat the end of the chunk before; 0 in the first chunk."""

    @property
    def new_frames(self) -> np.ndarray:
        """The frames that this chunk adds to the video."""
        return self.frames[self.num_overlap_frames :]


def long_video_frames(geometry: VideoGeometry, *, num_chunks: int, num_overlap_frames: int) -> int:
    """Pixel frames of a long video: F + (chunks - 1) * (F - overlap)."""
    return geometry.num_frames + (num_chunks - 1) * (geometry.num_frames - num_overlap_frames)


class Video2World:
    """The model: a diffusion transformer and a VAE on one device.

    Args:
        dit: the network; its adapters are activated by the caller.
        vae: the video VAE, in the network's dtype.
        context: processes that compute the network together; this one is rank 0 and has the VAE, the others are in
            `cosmos_core.clip_sampling.follow_clips`.
    """

    def __init__(self, dit: DiT, vae: VideoVAE, context: ContextParallel | None = None) -> None:
        self.dit = dit
        self.vae = vae
        self.context = context

    @property
    def device(self) -> torch.device:
        return self.dit.device

    @property
    def dtype(self) -> torch.dtype:
        return self.dit.dtype

    def generate(
        self,
        conditioning_frames_THWC: np.ndarray | Tensor,
        prompt_embedding_1ND: Tensor,
        *,
        geometry: VideoGeometry,
        negative_embedding_1ND: Tensor | None = None,
        num_conditional_frames: int = 1,
        guidance: float = 7.0,
        num_steps: int = 35,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Generation:
        """Generate one clip.

        Args:
            conditioning_frames_THWC: uint8 frames of the geometry's size; the first `num_conditional_frames` are used.
            prompt_embedding_1ND: embedding of the prompt.
            geometry: size of the clip.
            negative_embedding_1ND: embedding of the negative prompt; none switches guidance off and halves the cost.
            num_conditional_frames: 1 or 5 pixel frames to start from.
            guidance: w of x0_cond + w * (x0_cond - x0_uncond).
            num_steps: solver steps; the network is evaluated once more than that.
            seed: of the initial noise, 0 to 2**32 - 1.
            on_step: progress and cancellation.

        Raises:
            BadRequest: too few or too many conditioning frames, frames of another size, a bad seed or step number.
            OutOfMemory: the device's memory does not suffice.
        """
        frames = _conditioning_frames(conditioning_frames_THWC, geometry, num_conditional_frames)
        try:
            latents = self.sample_latents(
                self.encode_frames(frames),
                prompt_embedding_1ND,
                geometry=geometry,
                negative_embedding_1ND=negative_embedding_1ND,
                guidance=guidance,
                num_steps=num_steps,
                seed=seed,
                on_step=on_step,
            )
            return Generation(frames=self.decode_latents(latents), latents=latents)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"generating {geometry.num_frames} frames of {geometry.width} x {geometry.height}",
                got=str(error).split("\n")[0],
                fix="Use a smaller resolution or frame rate, or spread the model over more devices.",
            ) from error

    def generate_long(
        self,
        conditioning_frames_THWC: np.ndarray | Tensor,
        prompt_embeddings_1ND: Sequence[Tensor],
        *,
        geometry: VideoGeometry,
        negative_embedding_1ND: Tensor | None = None,
        num_conditional_frames: int = 1,
        num_overlap_frames: int | None = None,
        guidance: float = 7.0,
        num_steps: int = 35,
        seed: int = 0,
        finished: Sequence[np.ndarray] = (),
        on_step: Callable[[int, int, int], None] | None = None,
    ) -> Iterator[Chunk]:
        """Generate a long video chunk by chunk; every chunk starts from the last bytes of the one before.

        Chunk k has the seed `seed + k`. A run that was cut off goes on where it stopped when the frames of its
        finished chunks are passed in again; those are not yielded a second time.

        Args:
            conditioning_frames_THWC: frames that the first chunk starts from, as in `generate`.
            prompt_embeddings_1ND: one embedding for every chunk.
            num_conditional_frames: frames that the first chunk starts from, 1 or 5.
            num_overlap_frames: frames that the others start from, 1 or 5; by default as many as the first.
            finished: all frames of each chunk that exists already.
            on_step: called with the chunk's index, steps done and their total.

        Yields:
            The chunks in order, each as soon as it is done.

        Raises:
            BadRequest: as in `generate`, or more chunks are finished than wanted.
        """
        overlap = num_conditional_frames if num_overlap_frames is None else num_overlap_frames
        if len(finished) > len(prompt_embeddings_1ND):
            raise BadRequest("too many finished chunks", got=len(finished), expected=len(prompt_embeddings_1ND))
        previous = finished[-1] if finished else None
        for index in range(len(finished), len(prompt_embeddings_1ND)):
            num_conditional = num_conditional_frames if previous is None else overlap
            start = conditioning_frames_THWC if previous is None else previous[-overlap:]
            generation = self.generate(
                start,
                prompt_embeddings_1ND[index],
                geometry=geometry,
                negative_embedding_1ND=negative_embedding_1ND,
                num_conditional_frames=num_conditional,
                guidance=guidance,
                num_steps=num_steps,
                seed=seed + index,
                on_step=_for_chunk(on_step, index),
            )
            previous = generation.frames
            yield Chunk(
                index=index,
                seed=seed + index,
                frames=generation.frames,
                num_overlap_frames=0 if index == 0 else overlap,
            )

    @torch.no_grad()
    def encode_frames(self, frames_THWC: Tensor) -> Tensor:
        """Conditioning latents [1, C, K, H, W], float32, of 1 or 5 frames of bytes (K is 1 or 2)."""
        video = normalise(frames_THWC.permute(3, 0, 1, 2)[None].to(self.device), dtype=self.dtype)
        return self.vae.encode(video).float()

    @torch.no_grad()
    def sample_latents(
        self,
        clean_BCKHW: Tensor,
        prompt_embedding_1ND: Tensor,
        *,
        geometry: VideoGeometry,
        negative_embedding_1ND: Tensor | None = None,
        guidance: float = 7.0,
        num_steps: int = 35,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """Latents [1, C, T, H, W], float32, of a clip that starts with the conditioning latents."""
        shape = (
            1,
            self.dit.architecture.in_channels,
            geometry.num_latent_frames,
            geometry.latent_height,
            geometry.latent_width,
        )
        inputs = ClipInputs(
            noise_BCTHW=initial_noise(shape, seed).to(self.device),
            clean_BCKHW=clean_BCKHW,
            prompt_BND=prompt_embedding_1ND.to(self.device, self.dtype),
            negative_BND=None if negative_embedding_1ND is None else negative_embedding_1ND.to(self.device, self.dtype),
            guidance=guidance,
            sigmas=sigma_schedule(num_steps),
            fps=geometry.fps,
        )
        return sample_clip(self.dit, inputs, context=self.context, on_step=on_step)

    @torch.no_grad()
    def decode_latents(self, latents_BCTHW: Tensor) -> np.ndarray:
        """Frames uint8 [T, H, W, 3] of latents."""
        frames: np.ndarray = to_bytes(self.vae.decode(latents_BCTHW))
        return frames


def _for_chunk(on_step: Callable[[int, int, int], None] | None, index: int) -> OnStep | None:
    if on_step is None:
        return None
    return lambda step, num_steps: on_step(index, step, num_steps)


def _conditioning_frames(
    frames_THWC: np.ndarray | Tensor, geometry: VideoGeometry, num_conditional_frames: int
) -> Tensor:
    """The first frames as a tensor, checked."""
    if num_conditional_frames not in _CONDITIONAL_FRAMES:
        raise BadRequest("number of conditioning frames", got=num_conditional_frames, expected="1 or 5")
    frames = torch.as_tensor(np.ascontiguousarray(frames_THWC)) if isinstance(frames_THWC, np.ndarray) else frames_THWC
    expected = (num_conditional_frames, geometry.height, geometry.width, 3)
    first = frames[:num_conditional_frames]
    if tuple(first.shape) != expected or first.dtype != torch.uint8:
        raise BadRequest(
            "conditioning frames of another size",
            got=f"{first.dtype} {tuple(frames.shape)}",
            expected=f"uint8 with at least {expected} (frames, height, width, colours)",
            fix="Resize and crop the input to the clip's size first.",
        )
    return first
