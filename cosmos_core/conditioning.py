"""Preconditioning, conditioning frames and guidance: what stands between the solver and the network.

Conditioning frames are replaced, not noised: the network sees clean latents there, at a time near zero, and its answer
on them is overwritten with the same latents. The solver's own sample is never overwritten.

Legend: B batch, C latent channels, T H W latent frames, height, width, K conditioning latent frames, N text tokens,
D text width. Arithmetic is float32; the network casts its inputs to the dtype of its weights.

Source: reference files cosmos_predict2/pipelines/video2world.py, cosmos_predict2/module/denoiser_scaling.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

__all__ = [
    "SIGMA_CONDITIONAL",
    "Branch",
    "Denoised",
    "Network",
    "Preconditioning",
    "condition_mask",
    "denoise",
    "guided_denoiser",
    "in_turn",
    "network_inputs",
    "preconditioning",
    "replace_frames",
]

Network: TypeAlias = Callable[..., Tensor]
"""The diffusion transformer, as `cosmos_core.dit.DiT` is called."""
Branch: TypeAlias = Callable[[], Tensor]
"""One branch of guidance, evaluated when it is called: a denoised sample [B, C, T, H, W]."""

SIGMA_CONDITIONAL = 1e-4
"""Noise level that the network is told for conditioning frames."""


class Preconditioning(NamedTuple):
    """Factors of the rectified flow with sigma_data 1, each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor
    """The time t = sigma / (1 + sigma) itself."""


@dataclass(frozen=True, slots=True)
class Denoised:
    """One denoising: its result and what went through the network."""

    x0: Tensor
    """Denoised sample [B, C, T, H, W], clean latents on the conditioning frames."""
    network_output: Tensor
    """Velocity [B, C, T, H, W] in the network's dtype."""


def preconditioning(sigma: Tensor) -> Preconditioning:
    """Factors at noise level sigma, in float32."""
    sigma = sigma.float()
    t = sigma / (sigma + 1)
    return Preconditioning(c_skip=1 - t, c_out=-t, c_in=1 - t, c_noise=t)


def replace_frames(x_BCTHW: Tensor, clean_BCKHW: Tensor) -> Tensor:
    """The sample with its first K frames replaced by clean latents."""
    return torch.cat([clean_BCKHW, x_BCTHW[:, :, clean_BCKHW.shape[2] :]], dim=2)


def condition_mask(x_BCTHW: Tensor, num_conditional_latents: int) -> Tensor:
    """[B, 1, T, H, W], 1 on the first latent frames."""
    mask = torch.zeros_like(x_BCTHW[:, :1])
    mask[:, :, :num_conditional_latents] = 1
    return mask


def network_inputs(x_BCTHW: Tensor, sigma: Tensor, clean_BCKHW: Tensor) -> tuple[Tensor, Tensor]:
    """What the network is given: latents [B, C, T, H, W] and times [B, T], float32.

    Args:
        x_BCTHW: the solver's sample.
        sigma: its noise level, [B] or [B, T].
        clean_BCKHW: latents of the conditioning frames.
    """
    factors = preconditioning(_per_frame(sigma, x_BCTHW.shape[2]))
    latents = replace_frames(x_BCTHW * _over_frames(factors.c_in), clean_BCKHW)
    times = factors.c_noise.clone()
    times[:, : clean_BCKHW.shape[2]] = SIGMA_CONDITIONAL / (1 + SIGMA_CONDITIONAL)
    return latents, times


def denoise(
    network: Network,
    x_BCTHW: Tensor,
    sigma: Tensor,
    *,
    clean_BCKHW: Tensor,
    text_BND: Tensor,
    padding_mask_B1HW: Tensor | None = None,
    fps_B: Tensor | None = None,
) -> Denoised:
    """One evaluation of the network.

    Args:
        network: the diffusion transformer.
        x_BCTHW: the solver's sample, float32.
        sigma: its noise level, [B] or [B, T].
        clean_BCKHW: latents of the conditioning frames, float32; K may be 0.
        text_BND: text embedding.
        padding_mask_B1HW: 1 where the picture is padding; none means no padding.
        fps_B: frames per second, for architectures with frame-rate modulation.
    """
    latents, times = network_inputs(x_BCTHW, sigma, clean_BCKHW)
    velocity = network(
        latents,
        times,
        text_BND,
        condition_mask_B1THW=condition_mask(x_BCTHW, clean_BCKHW.shape[2]),
        padding_mask_B1HW=padding_mask_B1HW,
        fps_B=fps_B,
    )
    factors = preconditioning(_per_frame(sigma, x_BCTHW.shape[2]))
    x0 = _over_frames(factors.c_skip) * x_BCTHW + _over_frames(factors.c_out) * velocity.float()
    return Denoised(x0=replace_frames(x0, clean_BCKHW), network_output=velocity)


def in_turn(cond: Branch, uncond: Branch) -> tuple[Tensor, Tensor]:
    """Both branches of guidance, one after the other."""
    return cond(), uncond()


def guided_denoiser(
    network: Network,
    *,
    clean_BCKHW: Tensor,
    prompt_BND: Tensor,
    negative_BND: Tensor | None,
    guidance: float,
    fps_B: Tensor | None = None,
    both_branches: Callable[[Branch, Branch], tuple[Tensor, Tensor]] = in_turn,
) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser that the solver calls, (sample, sigma) -> guided denoised sample.

    x0 = x0_cond + w * (x0_cond - x0_uncond): w is what others call guidance scale minus one. Branches differ in the
    text only. Without a negative embedding, or with w = 0, the unconditional branch cannot change the result and is
    not evaluated.

    Args:
        network: the diffusion transformer.
        clean_BCKHW: latents of the conditioning frames, float32.
        prompt_BND: embedding of the prompt.
        negative_BND: embedding of the negative prompt, or none for guidance off.
        guidance: w.
        fps_B: frames per second, for architectures with frame-rate modulation.
        both_branches: evaluates the conditional and the unconditional branch, in that order of its arguments.
    """

    def branch(x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return denoise(network, x, sigma, clean_BCKHW=clean_BCKHW, text_BND=text, fps_B=fps_B).x0

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        if negative_BND is None or guidance == 0:
            return branch(x, sigma, prompt_BND)
        cond, uncond = both_branches(lambda: branch(x, sigma, prompt_BND), lambda: branch(x, sigma, negative_BND))
        return cond + guidance * (cond - uncond)

    return guided


def _per_frame(sigma: Tensor, num_frames: int) -> Tensor:
    """Noise levels [B, T] from [B] or [B, T]."""
    return sigma if sigma.ndim == 2 else sigma[:, None].expand(-1, num_frames)


def _over_frames(factor_BT: Tensor) -> Tensor:
    return factor_BT[:, None, :, None, None]
