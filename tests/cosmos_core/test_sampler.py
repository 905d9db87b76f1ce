"""Noise levels, solver and noise generator against the reference; exactness and cancellation of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cosmos_core.errors import BadRequest
from cosmos_core.sampler import ab2_step, initial_noise, sample, sigma_schedule

GOLDEN = Path(__file__).parents[1] / "golden/sampler"


@pytest.mark.parametrize("num_steps", [10, 35])
def test_sigma_schedule_equals_the_reference(num_steps):
    golden = load_file(GOLDEN / "sigmas.safetensors")[f"sigmas_{num_steps}"]
    torch.testing.assert_close(torch.tensor(sigma_schedule(num_steps), dtype=torch.float64), golden, rtol=1e-14, atol=0)


def test_sigma_schedule_has_no_final_zero():
    sigmas = sigma_schedule(1)
    assert sigmas == pytest.approx([80, 0.002])


def test_no_steps_is_refused():
    with pytest.raises(BadRequest, match="at least 1"):
        sigma_schedule(0)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_noise_equals_the_reference(seed):
    golden = load_file(GOLDEN / "unit_noise.safetensors")[f"unit_noise_seed{seed}"]
    assert torch.equal(initial_noise(golden.shape, seed), golden)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_out_of_range_are_refused(seed):
    with pytest.raises(BadRequest, match="seed"):
        initial_noise((1, 16, 1, 2, 2), seed)


@pytest.mark.parametrize(("step", "name"), [(0, "out.step0_no_prev"), (4, "out.step4"), (9, "out.step9")])
def test_single_steps_equal_the_reference(step, name):
    tensors, sigmas = load_file(GOLDEN / "single_steps.safetensors"), sigma_schedule(10)
    result = ab2_step(
        tensors["in.sample"],
        tensors["in.x0_pred"],
        tensors["in.x0_prev"] if step else None,
        sigma=sigmas[step],
        sigma_next=sigmas[step + 1],
        sigma_previous=sigmas[step - 1] if step else None,
    )
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, tensors[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_steps", [10, 35])
def test_trajectory_equals_the_reference(num_steps):
    tensors = load_file(GOLDEN / "analytic_trajectory.safetensors")
    samples = []

    def x0_fn(x, sigma):
        samples.append(x)
        return 0.3 * x / (1 + sigma.view(-1, 1, 1, 1, 1)) + tensors["in.constant"]

    final = sample(x0_fn, initial_noise((1, 16, 3, 6, 8), 7), sigma_schedule(num_steps))
    assert len(samples) == num_steps + 1
    assert torch.equal(samples[0], tensors[f"steps{num_steps}.initial_sample"])
    golden = tensors[f"steps{num_steps}.samples_after_each_step"]
    torch.testing.assert_close(torch.cat(samples[1:]), golden, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(final, tensors[f"steps{num_steps}.final_latent"], rtol=1e-6, atol=1e-6)


def test_a_denoiser_that_knows_the_answer_ends_there():
    answer = torch.full((1, 16, 1, 2, 2), 0.5)
    assert torch.equal(sample(lambda x, sigma: answer, initial_noise(answer.shape, 0), sigma_schedule(5)), answer)


def test_on_step_counts_steps_and_cancels():
    class Cancelled(Exception):
        pass

    seen = []

    def on_step(step, num_steps):
        seen.append((step, num_steps))
        if step == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample(lambda x, sigma: x, initial_noise((1, 16, 1, 2, 2), 0), sigma_schedule(8), on_step)
    assert seen == [(1, 8), (2, 8), (3, 8)]
