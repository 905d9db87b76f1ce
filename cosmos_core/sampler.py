"""The noise schedule and the solver.

A bare loop over pairs of noise levels. Every step is a two-step Adams-Bashforth step in log sigma, the first one Euler;
after the last step the denoiser is evaluated once more, so n steps cost n + 1 evaluations. Solver arithmetic is
float64, what is kept between steps is float32.

Source: reference files cosmos_predict2/schedulers/rectified_flow_scheduler.py and
cosmos_predict2/functional/runge_kutta.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from cosmos_core.errors import BadRequest

__all__ = ["SIGMA_MAX", "SIGMA_MIN", "ab2_step", "initial_noise", "sample", "sigma_schedule"]

SIGMA_MAX = 80.0
SIGMA_MIN = 0.002
_ORDER = 7.0


def sigma_schedule(num_steps: int) -> list[float]:
    """The num_steps + 1 noise levels from 80 down to 0.002; there is no final zero.

    Raises:
        BadRequest: there is less than one step.
    """
    if num_steps < 1:
        raise BadRequest("too few sampling steps", got=num_steps, expected="at least 1")
    ramp = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    start, end = SIGMA_MAX ** (1 / _ORDER), SIGMA_MIN ** (1 / _ORDER)
    sigmas: list[float] = ((start + ramp * (end - start)) ** _ORDER).tolist()
    return sigmas


def initial_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Unit Gaussian noise, float32 on the CPU, the same on every device and PyTorch version.

    Args:
        shape: (1, 16, T, H, W) of the latents.
        seed: 0 to 2**32 - 1.

    Raises:
        BadRequest: the seed is outside of that range.
    """
    if not 0 <= seed < 2**32:
        raise BadRequest("seed out of range", got=seed, expected="0 to 4294967295")
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(tuple(shape)).astype(np.float32))


def ab2_step(
    x: Tensor, x0: Tensor, x0_previous: Tensor | None, *, sigma: float, sigma_next: float, sigma_previous: float | None
) -> Tensor:
    """One solver step from `sigma` to `sigma_next`, float32 of the sample's shape.

    Args:
        x: sample at `sigma`.
        x0: denoised sample at `sigma`.
        x0_previous: denoised sample of the step before; none for the first step, which is then an Euler step.
        sigma_previous: noise level of the step before.
    """
    x, x0 = x.double(), x0.double()
    if x0_previous is None or sigma_previous is None:
        return (sigma_next / sigma * x + (sigma - sigma_next) / sigma * x0).float()
    h = math.log(sigma) - math.log(sigma_next)
    c = (math.log(sigma) - math.log(sigma_previous)) / h
    phi1 = -math.expm1(-h) / h
    phi2 = (1 - phi1) / h
    b2 = phi2 / c
    b1 = phi1 - b2
    return (math.exp(-h) * x + h * (b1 * x0 + b2 * x0_previous.double())).float()


def sample(
    x0_fn: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    sigmas: Sequence[float],
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Solve from noise to latents.

    Args:
        x0_fn: (sample [B, ...], sigma float32 [B]) -> denoised sample.
        noise: unit noise, float32, on the device to work on.
        sigmas: noise levels, falling.
        on_step: called after every step with the number of steps done and their total; raising in it cancels.

    Returns:
        The denoised sample at the last level, float32.
    """
    num_steps = len(sigmas) - 1

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return x0_fn(x, torch.full(x.shape[:1], sigma, dtype=torch.float32, device=x.device)).float()

    x = noise.float() * sigmas[0]
    x0_previous: Tensor | None = None
    sigma_previous: float | None = None
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas), start=1):
        x0 = denoise(x, sigma)
        x = ab2_step(x, x0, x0_previous, sigma=sigma, sigma_next=sigma_next, sigma_previous=sigma_previous)
        x0_previous, sigma_previous = x0, sigma
        if on_step is not None:
            on_step(step, num_steps)
    return denoise(x, sigmas[-1])
