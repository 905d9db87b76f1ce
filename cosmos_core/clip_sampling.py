"""From the inputs of one clip to its latents: on this process, or on several that render it together.

Rank 0 has the inputs: it drew the noise, encoded the first frame and the prompts. The others get them from it, clip by
clip, until it says that there is none left (`follow_clips`).

Legend: B batch (always 1), C latent channels, T H W latent frames, height, width, K conditioning latent frames, N text
tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from cosmos_core.conditioning import guided_denoiser, in_turn
from cosmos_core.context_parallel import ContextParallel
from cosmos_core.dit import DiT
from cosmos_core.sampler import sample

__all__ = ["ClipInputs", "OnStep", "end_clips", "follow_clips", "sample_clip"]

OnStep = Callable[[int, int], None]
"""Called with the number of solver steps done and their total; raising in it cancels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInputs:
    """Everything that determines the latents of a clip, but the network; tensors are on the network's device."""

    noise_BCTHW: Tensor
    """Unit noise, float32."""
    clean_BCKHW: Tensor
    """Latents of the conditioning frames, float32."""
    prompt_BND: Tensor
    """In the network's dtype."""
    negative_BND: Tensor | None
    """None switches guidance off."""
    guidance: float
    sigmas: list[float]
    """Noise levels of the solver, falling."""
    fps: int

    @property
    def guided(self) -> bool:
        """Whether an unconditional branch is evaluated."""
        return self.negative_BND is not None and self.guidance != 0

    def map(self, call: Callable[[Tensor], Tensor]) -> ClipInputs:
        """The same with other tensors."""
        return replace(
            self,
            noise_BCTHW=call(self.noise_BCTHW),
            clean_BCKHW=call(self.clean_BCKHW),
            prompt_BND=call(self.prompt_BND),
            negative_BND=None if self.negative_BND is None else call(self.negative_BND),
        )


def sample_clip(
    dit: DiT, inputs: ClipInputs, *, context: ContextParallel | None = None, on_step: OnStep | None = None
) -> Tensor:
    """Latents [1, C, T, H, W], float32, of a clip.

    Args:
        dit: the network.
        inputs: of the clip.
        context: the processes that render it together; this one is rank 0 and the others are in `follow_clips`.
        on_step: progress and cancellation; with several processes, raising in it ends all of them.
    """
    if context is None:
        return _solve(dit, inputs, None, on_step)
    context.ranks.first(lambda: inputs.map(lambda tensor: tensor.to("meta")))
    return _solve_together(dit, inputs, context, on_step)


def follow_clips(dit: DiT, context: ContextParallel) -> Iterator[Tensor]:
    """On every rank but the first: compute with it, clip by clip, until it calls `end_clips`.

    Args:
        dit: the network, with the same weights as on rank 0.
        context: the processes.

    Yields:
        The latents of each clip, which are those of rank 0.
    """
    while (header := context.ranks.first(_nothing)) is not None:
        yield _solve_together(dit, header, context, None)


def end_clips(context: ContextParallel) -> None:
    """On rank 0: let the others return from `follow_clips`."""
    context.ranks.first(_nothing)


def _nothing() -> ClipInputs | None:
    return None


def _solve_together(dit: DiT, inputs: ClipInputs, context: ContextParallel, on_step: OnStep | None) -> Tensor:
    """The latents from the inputs of rank 0; those of other ranks have shapes only."""

    def share(tensor: Tensor) -> Tensor:
        mine = torch.empty_like(tensor, device=dit.device) if tensor.is_meta else tensor.contiguous()
        context.share(mine)
        return mine

    with context.ranks.lockstep():
        latents = _solve(dit, inputs.map(share), context, on_step)
        if latents.is_cuda:
            torch.cuda.synchronize(latents.device)  # what has failed on the device is raised here, and not later
    return latents


@torch.no_grad()
def _solve(dit: DiT, inputs: ClipInputs, context: ContextParallel | None, on_step: OnStep | None) -> Tensor:
    group = None if context is None else context.token_group(guided=inputs.guided)
    x0_fn = guided_denoiser(
        partial(dit, group=group),
        clean_BCKHW=inputs.clean_BCKHW,
        prompt_BND=inputs.prompt_BND,
        negative_BND=inputs.negative_BND,
        guidance=inputs.guidance,
        fps_B=torch.tensor([inputs.fps]),
        both_branches=in_turn if context is None else context.both_branches,
    )
    return sample(x0_fn, inputs.noise_BCTHW, inputs.sigmas, on_step)
