"""Several processes compute what one computes: forwards, whole clips, with adapters, at every legal number of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.golden_set import relative_l2
from cosmos_core.adapter_set import AdapterSet
from cosmos_core.architecture import DiTArchitecture
from cosmos_core.clip_sampling import ClipInputs, end_clips, follow_clips, sample_clip
from cosmos_core.context_parallel import ContextParallel
from cosmos_core.dit import DiT
from cosmos_core.errors import BadConfig
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.random_tensor import random_tensor
from cosmos_core.rank_agreement import Ranks
from cosmos_core.sampler import sigma_schedule
from tests.process_gang import Gang

SIZES = {"model_channels": 80, "num_blocks": 2, "num_heads": 5, "crossattn_emb_channels": 32, "adaln_lora_dim": 8}
CPU = torch.device("cpu")
WORLD_SIZES = (2, 3, 4)


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang(max(WORLD_SIZES)) as gang:
        yield gang


def network(dtype: torch.dtype = torch.float32, **changes: Any) -> DiT:
    """Five heads: uneven over every number of processes."""
    dit = DiT(DiTArchitecture(**{**SIZES, **changes})).requires_grad_(False).eval()
    for name, weight in dit.named_parameters():
        if weight.ndim > 1:
            weight.copy_(random_tensor(name, weight.shape, seed=0, std=1.5 * weight.shape[-1] ** -0.5))
    return dit.to(dtype)


def forward_inputs(frames: int, height: int, width: int, *, batch: int = 1) -> dict[str, Tensor]:
    """Another time on every frame, a condition mask that cuts through frames, and picture that is padding."""
    draw = torch.Generator().manual_seed(1)
    return {
        "x_BCTHW": torch.randn(batch, 16, frames, height, width, generator=draw),
        "timesteps_B_T": torch.rand(batch, frames, generator=draw),
        "crossattn_emb_BND": torch.randn(batch, 5, 32, generator=draw),
        "condition_mask_B1THW": torch.randint(0, 2, (batch, 1, frames, height, width), generator=draw).float(),
        "padding_mask_B1HW": torch.randint(0, 2, (batch, 1, height, width), generator=draw).float(),
    }


FORWARDS: dict[str, dict[str, Any]] = {
    "27 rows": {"grid": (3, 54, 4)},
    "rows that divide": {"grid": (4, 8, 6)},
    "a token a frame": {"grid": (5, 2, 2)},
    "fewer tokens than processes": {"grid": (2, 2, 2)},
    "a prime number of tokens": {"grid": (1, 2, 26)},
    "two samples": {"grid": (3, 6, 10), "batch": 2},
    "one time for all frames": {"grid": (3, 6, 10), "one_time": True},
    "frame-rate modulation": {"grid": (3, 6, 10), "fps": 30},
    "bfloat16": {"grid": (3, 54, 4), "dtype": torch.bfloat16},
}


@torch.no_grad()
def forward(case: str, *, group: Any = None) -> Tensor:
    options = FORWARDS[case]
    inputs = forward_inputs(*options["grid"], batch=options.get("batch", 1))
    if options.get("one_time"):
        inputs["timesteps_B_T"] = inputs["timesteps_B_T"][:, 0]
    fps = options.get("fps")
    dit = network(options.get("dtype", torch.float32), rope_enable_fps_modulation=fps is not None)
    return dit(**inputs, fps_B=None if fps is None else torch.tensor([fps]), group=group).float()


def forward_together(case: str) -> Any:
    with Ranks() as ranks:
        group = ContextParallel(ranks, network().architecture, CPU).token_group(guided=False)
        return forward(case, group=group).numpy()


@pytest.mark.parametrize("case", FORWARDS)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_shared_forward_is_that_of_one_process(gang, world_size, case):
    alone = forward(case)
    outputs = [torch.from_numpy(output) for output in gang.run(world_size, forward_together, case)]
    assert relative_l2(outputs[0], alone) < (2e-2 if case == "bfloat16" else 1e-5)
    assert all(torch.equal(output, outputs[0]) for output in outputs)


def clip_inputs(*, num_clean: int = 1, guided: bool = True, num_steps: int = 3) -> ClipInputs:
    draw = torch.Generator().manual_seed(2)
    noise = torch.randn(1, 16, 3, 6, 10, generator=draw)
    return ClipInputs(
        noise_BCTHW=noise,
        clean_BCKHW=torch.randn(1, 16, num_clean, 6, 10, generator=draw),
        prompt_BND=torch.randn(1, 5, 32, generator=draw),
        negative_BND=torch.randn(1, 5, 32, generator=draw) if guided else None,
        guidance=7.0,
        sigmas=sigma_schedule(num_steps),
        fps=16,
    )


def adapted_network(merge: bool) -> DiT:
    dit, spec = network(), LoraSpec(rank=4, alpha=8)
    tensors = {name: random_tensor(name, shape, seed=3, std=0.2) for name, shape in adapter_shapes(dit, spec).items()}
    adapters = AdapterSet(dit, merge=merge)
    adapters.add("its", tensors, spec)
    adapters.use({"its": 0.8})
    return dit


CLIPS: dict[str, tuple[dict[str, Any], str]] = {
    "guided, one conditioning frame": ({}, "base"),
    "guided, five conditioning frames": ({"num_clean": 2}, "base"),
    "unguided": ({"guided": False}, "base"),
    "adapter, merged": ({"num_steps": 1}, "merged"),
    "adapter, unmerged": ({"num_steps": 1}, "unmerged"),
}


def build(kind: str) -> DiT:
    return network() if kind == "base" else adapted_network(merge=kind == "merged")


def clip_alone(case: str) -> Tensor:
    options, kind = CLIPS[case]
    return sample_clip(build(kind), clip_inputs(**options))


def clips_together(cases: list[str]) -> list[Any]:
    """Rank 0 alone has inputs; the others return what they computed with it."""
    with Ranks() as ranks:
        context = ContextParallel(ranks, network().architecture, CPU)
        latents = []
        for case in cases:
            options, kind = CLIPS[case]
            dit = build(kind)
            if ranks.is_first:
                latents.append(sample_clip(dit, clip_inputs(**options), context=context))
                end_clips(context)
            else:
                latents += list(follow_clips(dit, context))
        return [tensor.numpy() for tensor in latents]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_a_clip_of_several_processes_is_that_of_one(gang, world_size):
    by_rank = gang.run(world_size, clips_together, list(CLIPS))
    assert {len(latents) for latents in by_rank} == {len(CLIPS)}
    for index, case in enumerate(CLIPS):
        alone = clip_alone(case)
        mine = torch.from_numpy(by_rank[0][index])
        assert relative_l2(mine, alone) < 1e-5, case
        # The processes hold equal samples after every step only if noise, frame and text were equal on all of them.
        assert all(torch.equal(torch.from_numpy(latents[index]), mine) for latents in by_rank), case
        if world_size == 2 and "unguided" not in case:
            # A branch each, with all its tokens: the very same computation.
            assert torch.equal(mine, alone), case


def test_the_clips_differ_in_everything_that_is_compared():
    clips = [clip_alone(case) for case in CLIPS if case != "adapter, unmerged"]
    assert min(relative_l2(a, b) for i, a in enumerate(clips) for b in clips[:i]) > 1e-2


def many_clips_together() -> list[Any]:
    with Ranks() as ranks:
        dit = network()
        context = ContextParallel(ranks, dit.architecture, CPU)
        if not ranks.is_first:
            return [latents.numpy() for latents in follow_clips(dit, context)]
        steps: list[tuple[int, int]] = []
        inputs = [clip_inputs(num_clean=1, num_steps=2), clip_inputs(num_clean=2, guided=False, num_steps=1)]
        clips = [
            sample_clip(dit, one, context=context, on_step=lambda *step: steps.append(step)).numpy() for one in inputs
        ]
        end_clips(context)
        assert steps == [(1, 2), (2, 2), (1, 1)]
        return clips


def test_the_others_follow_clip_by_clip(gang):
    first, second = gang.run(2, many_clips_together)
    assert [clip.tolist() for clip in second] == [clip.tolist() for clip in first]


def refused() -> str:
    with Ranks() as ranks:
        with pytest.raises(BadConfig) as refusal:
            ContextParallel(ranks, network(num_heads=2).architecture, CPU)
        return str(refusal.value)


def test_more_processes_than_heads_are_refused(gang):
    (message,) = set(gang.run(3, refused))
    assert "got 3, expected 1 | 2" in message
