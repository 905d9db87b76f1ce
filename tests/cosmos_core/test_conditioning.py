"""Preconditioning, frame replacement and guidance against the reference, and how often the network is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden_set import build_dit, relative_l2
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.conditioning import (
    SIGMA_CONDITIONAL,
    condition_mask,
    denoise,
    guided_denoiser,
    network_inputs,
    preconditioning,
    replace_frames,
)

GOLDEN = Path(__file__).parents[1] / "golden"
UNITS = load_file(GOLDEN / "pipeline/denoise_units.safetensors")
CASES = sorted({name.split(".", 1)[0] for name in UNITS})


@pytest.fixture(scope="module")
def dit():
    manifest = json.loads((GOLDEN / "pipeline/manifest.json").read_text())
    state_dict = load_file(GOLDEN / "pipeline/dit_state_dict.safetensors")
    return build_dit(architecture_from_reference(manifest["dit_constructor_kwargs"]), state_dict, torch.float32)


class Network:
    """A network that answers with its text embedding's mean and counts."""

    def __init__(self):
        self.texts = []

    def __call__(self, latents, times, text, **kwargs):
        self.texts.append(text)
        return torch.zeros_like(latents) + text.mean()


def unit(case: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{case}."): value for name, value in UNITS.items() if name.startswith(f"{case}.")}


@pytest.mark.parametrize("num_steps", [10, 35])
@pytest.mark.parametrize("factor", ["c_skip", "c_out", "c_in", "c_noise"])
def test_factors_equal_the_reference(factor, num_steps):
    tensors = load_file(GOLDEN / "sampler/sigmas.safetensors")
    factors = preconditioning(tensors[f"sigmas_{num_steps}"])
    assert torch.equal(getattr(factors, factor), tensors[f"{factor}_{num_steps}"])


@pytest.mark.parametrize("case", CASES)
def test_network_inputs_equal_the_reference(case):
    tensors = unit(case)
    mask = tensors["mid.condition_mask"]
    clean = tensors["in.gt_latent"][:, :, : int(mask[0, 0, :, 0, 0].sum())]
    latents, times = network_inputs(tensors["in.xt"], tensors["in.sigma"], clean)
    assert torch.equal(latents, tensors["mid.net_x"])
    assert torch.equal(times, tensors["mid.net_timesteps_B_T"])
    assert torch.equal(condition_mask(latents, clean.shape[2]), mask)


@pytest.mark.parametrize("case", CASES)
def test_denoising_equals_the_reference(dit, case):
    tensors = unit(case)
    clean = tensors["in.gt_latent"][:, :, : int(tensors["mid.condition_mask"][0, 0, :, 0, 0].sum())]
    denoised = denoise(
        dit, tensors["in.xt"], tensors["in.sigma"], clean_BCKHW=clean, text_BND=tensors["in.crossattn_emb"]
    )
    assert relative_l2(denoised.network_output, tensors["mid.net_out"]) < 2e-6
    assert relative_l2(denoised.x0, tensors["out.x0"]) < 5e-6
    assert torch.equal(denoised.x0[:, :, : clean.shape[2]], clean)


def test_without_conditioning_frames_nothing_is_replaced():
    x = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(replace_frames(x, x[:, :, :0]), x)
    _, times = network_inputs(x, torch.tensor([1.0]), x[:, :, :0])
    assert torch.equal(times, torch.full((1, 2), 0.5))


def test_conditioning_frames_are_told_a_time_near_zero():
    x = torch.zeros(1, 16, 3, 2, 2)
    _, times = network_inputs(x, torch.tensor([80.0]), x[:, :, :2])
    assert times[0].tolist() == pytest.approx([SIGMA_CONDITIONAL / (1 + SIGMA_CONDITIONAL)] * 2 + [80 / 81])


@pytest.mark.parametrize(("has_negative", "guidance", "num_forwards"), [(True, 7.0, 2), (False, 7.0, 1), (True, 0, 1)])
def test_guidance_off_costs_one_forward(has_negative, guidance, num_forwards):
    network = Network()
    prompt, negative = torch.full((1, 2, 4), 3.0), torch.full((1, 2, 4), 1.0)
    x, sigma = torch.ones(1, 16, 2, 2, 2), torch.tensor([1.0])
    guided = guided_denoiser(
        network,
        clean_BCKHW=x[:, :, :1],
        prompt_BND=prompt,
        negative_BND=negative if has_negative else None,
        guidance=guidance,
    )
    x0 = guided(x, sigma)
    assert len(network.texts) == num_forwards
    cond = denoise(network, x, sigma, clean_BCKHW=x[:, :, :1], text_BND=prompt).x0
    if num_forwards == 1:
        assert torch.equal(x0, cond)
    else:
        uncond = denoise(network, x, sigma, clean_BCKHW=x[:, :, :1], text_BND=negative).x0
        assert torch.equal(x0, cond + 7 * (cond - uncond))
    assert torch.equal(x0[:, :, :1], x[:, :, :1])
