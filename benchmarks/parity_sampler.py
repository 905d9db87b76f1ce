"""Parity of the noise schedule, single solver steps, the noise generator and a whole trajectory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden_set import Case, load_json, load_tensors, relative_l2
from cosmos_core.conditioning import SIGMA_CONDITIONAL, preconditioning
from cosmos_core.sampler import ab2_step, initial_noise, sample, sigma_schedule

__all__ = ["sampler_cases"]

_SIGMA_LIMIT = 1e-12
_STEP_LIMIT = 1e-6


def sampler_cases(folder: Path) -> Iterator[Case]:
    """Everything in `sampler/`, told apart by tensor names."""
    if not (folder / "sampler").is_dir():
        return
    manifest = load_json(folder / "sampler/manifest.json")
    for path in sorted(folder.glob("sampler/*.safetensors")):
        for name in sorted(load_tensors(path)):
            yield from _tensor_cases(path, name, manifest)


def _tensor_cases(path: Path, name: str, manifest: dict[str, Any]) -> Iterator[Case]:
    if match := re.fullmatch(r"sigmas_(\d+)", name):
        yield Case("sampler sigmas", name, _SIGMA_LIMIT, partial(_sigmas, path, name, int(match[1])))
    elif match := re.fullmatch(r"(c_skip|c_out|c_in|c_noise)_(\d+)", name):
        measure = partial(_preconditioning, path, name, match[1], int(match[2]))
        yield Case("sampler preconditioning", name, _STEP_LIMIT, measure)
    elif name.startswith("c_noise_at_sigma_conditional"):
        yield Case("sampler preconditioning", name, _STEP_LIMIT, partial(_conditional_time, path, name))
    elif match := re.fullmatch(r"unit_noise_seed(\d+)", name):
        yield Case("sampler noise", name, _STEP_LIMIT, partial(_noise, path, name, int(match[1])))
    elif match := re.fullmatch(r"out\.step(\d+)(_no_prev)?", name):
        (num_steps,) = (int(m[1]) for key in manifest if (m := re.match(r"single_steps_of_(\d+)_step", key)))
        measure = partial(_step, path, name, int(match[1]), num_steps, match[2] is None)
        yield Case("sampler steps", name, _STEP_LIMIT, measure)
    elif match := re.fullmatch(r"steps(\d+)\.final_latent", name):
        text = manifest["analytic_denoiser"]
        seed, factor = re.search(r"noise seed (\d+)", text), re.search(r"([\d.]+) \* x / \(1 \+ sigma\)", text)
        if seed is None or factor is None:
            raise ValueError(f"cannot read the analytic denoiser from {text!r}")
        measure = partial(_trajectory, path, int(match[1]), int(seed[1]), float(factor[1]))
        yield Case("sampler trajectory", f"{match[1]} steps", _STEP_LIMIT, measure)


def _sigmas(path: Path, name: str, num_steps: int) -> float:
    return relative_l2(torch.tensor(sigma_schedule(num_steps), dtype=torch.float64), load_tensors(path)[name])


def _preconditioning(path: Path, name: str, factor: str, num_steps: int) -> float:
    factors = preconditioning(torch.tensor(sigma_schedule(num_steps), dtype=torch.float64))
    return relative_l2(getattr(factors, factor), load_tensors(path)[name])


def _conditional_time(path: Path, name: str) -> float:
    return relative_l2(preconditioning(torch.tensor([SIGMA_CONDITIONAL])).c_noise, load_tensors(path)[name])


def _noise(path: Path, name: str, seed: int) -> float:
    golden = load_tensors(path)[name]
    return relative_l2(initial_noise(golden.shape, seed), golden)


def _step(path: Path, name: str, step: int, num_steps: int, has_history: bool) -> float:
    tensors, sigmas = load_tensors(path), sigma_schedule(num_steps)
    result = ab2_step(
        tensors["in.sample"],
        tensors["in.x0_pred"],
        tensors["in.x0_prev"] if has_history else None,
        sigma=sigmas[step],
        sigma_next=sigmas[step + 1],
        sigma_previous=sigmas[step - 1] if has_history else None,
    )
    return relative_l2(result, tensors[name])


def _trajectory(path: Path, num_steps: int, seed: int, factor: float) -> float:
    """The largest deviation of the initial sample, the sample after every step, and the final latent."""
    tensors = load_tensors(path)
    golden = {name: tensors[f"steps{num_steps}.{name}"] for name in ("initial_sample", "final_latent")}
    samples: list[Tensor] = []

    def x0_fn(x: Tensor, sigma: Tensor) -> Tensor:
        samples.append(x)
        return factor * x / (1 + sigma.view(-1, 1, 1, 1, 1)) + tensors["in.constant"]

    final = sample(x0_fn, initial_noise(golden["initial_sample"].shape, seed), sigma_schedule(num_steps))
    return max(
        relative_l2(final, golden["final_latent"]),
        relative_l2(samples[0], golden["initial_sample"]),
        relative_l2(torch.cat(samples[1:]), tensors[f"steps{num_steps}.samples_after_each_step"]),
    )
