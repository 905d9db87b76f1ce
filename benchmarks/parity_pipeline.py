"""Parity of single denoisings and of whole runs, from a file on disk to the decoded video."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden_set import Case, build_dit, load_json, load_tensors, relative_l2
from benchmarks.parity_lora import adapted_dit
from benchmarks.parity_pixels import build_vae, run_input
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.conditioning import denoise, network_inputs
from cosmos_core.dit import DiT
from cosmos_core.geometry import VideoGeometry
from cosmos_core.video2world import Video2World

__all__ = ["pipeline_cases"]

_INPUT_LIMIT = 1e-6
_X0_LIMIT = 5e-6
_RUN_LIMIT = 5e-5
_BF16_RUN_LIMIT = 1e-1

_WEIGHTS = "pipeline/dit_state_dict.safetensors"


def pipeline_cases(folder: Path) -> Iterator[Case]:
    """Denoisings and whole runs of `pipeline/`, and the whole run of `lora/`."""
    if (folder / "pipeline").is_dir():
        manifest = load_json(folder / "pipeline/manifest.json")
        yield from _denoise_cases(folder, manifest)
        for path in sorted(folder.glob("pipeline/*.safetensors")):
            if "out.final_latent" in load_tensors(path):
                yield from _run_cases(folder, manifest, path)
    if (folder / "lora").is_dir():
        yield from _lora_run_cases(folder)


def _denoise_cases(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Case]:
    for path in sorted(folder.glob("pipeline/*.safetensors")):
        for name in sorted(load_tensors(path)):
            case, _, output = name.partition(".")
            if output in ("mid.net_x", "mid.net_timesteps_B_T"):
                yield Case(
                    "denoise inputs", name, _INPUT_LIMIT, partial(_denoise, folder, manifest, path, case, output)
                )
            elif output in ("out.x0", "out.eps"):
                yield Case("denoise x0", name, _X0_LIMIT, partial(_denoise, folder, manifest, path, case, output))


def _denoise(folder: Path, manifest: Mapping[str, Any], path: Path, case: str, output: str) -> float:
    prefix = f"{case}."
    tensors = {name.removeprefix(prefix): t for name, t in load_tensors(path).items() if name.startswith(prefix)}
    x, sigma = tensors["in.xt"], tensors["in.sigma"]
    num_conditional = int(tensors["mid.condition_mask"][0, 0, :, 0, 0].sum())
    clean = tensors["in.gt_latent"][:, :, :num_conditional]
    if output.startswith("mid."):
        latents, times = network_inputs(x, sigma, clean)
        return relative_l2(latents if output == "mid.net_x" else times, tensors[output])
    dit = _dit(folder, manifest, torch.float32)
    x0 = denoise(dit, x, sigma, clean_BCKHW=clean, text_BND=tensors["in.crossattn_emb"]).x0
    per_frame = sigma.view(x.shape[0], 1, -1, 1, 1)
    return relative_l2(x0 if output == "out.x0" else (x - x0) / per_frame, tensors[output])


def _run_cases(folder: Path, manifest: Mapping[str, Any], path: Path) -> Iterator[Case]:
    """Outputs of one file; `e2e_bf16_<run>` has the arguments of `<run>`."""
    name = path.stem.removeprefix("e2e_")
    is_bf16 = name.startswith("bf16_")
    name = name.removeprefix("bf16_")
    dtype = torch.bfloat16 if is_bf16 else torch.float32

    def run() -> tuple[Tensor, Tensor]:
        args = manifest["e2e_runs"][name]["args"]
        is_image = not args["path"].endswith(".mp4")
        model = Video2World(_dit(folder, manifest, dtype), build_vae(folder, dtype))
        return _generate(
            model,
            manifest,
            load_tensors(folder / "pipeline/e2e_inputs.safetensors"),
            image=folder / "pipeline" / args["path"] if is_image else None,
            has_negative=bool(args["neg"]),
            num_conditional_frames=args["ncond"],
            guidance=args["guidance"],
            num_steps=args["steps"],
            seed=args["seed"],
        )

    limit = _BF16_RUN_LIMIT if is_bf16 else _RUN_LIMIT
    yield from _output_cases(f"end to end {path.stem.removeprefix('e2e_')}", path, limit, run)


def _lora_run_cases(folder: Path) -> Iterator[Case]:
    manifest = load_json(folder / "lora/manifest.json")

    def run() -> tuple[Tensor, Tensor]:
        args = manifest["e2e"]["args"]
        checkpoint = re.search(r"\S+\.pt\b", args["weights"])
        if checkpoint is None:
            raise ValueError(f"no checkpoint is named in {args['weights']!r}")
        state_dict = load_tensors(folder / "lora" / checkpoint[0])
        dit = adapted_dit(manifest, state_dict, torch.float32, ema="net_ema" in args["weights"])
        return _generate(
            Video2World(dit, build_vae(folder, torch.float32)),
            load_json(folder / "pipeline/manifest.json"),
            load_tensors((folder / "lora" / args["embeddings"]).resolve()),
            image=(folder / "lora" / args["image"]).resolve(),
            has_negative=True,
            num_conditional_frames=args["num_conditional_frames"],
            guidance=args["guidance"],
            num_steps=args["steps"],
            seed=args["seed"],
        )

    for path in sorted(folder.glob("lora/*.safetensors")):
        if "out.final_latent" in load_tensors(path):
            yield from _output_cases("end to end lora", path, _RUN_LIMIT, run)


def _output_cases(group: str, path: Path, limit: float, run: Callable[[], tuple[Tensor, Tensor]]) -> Iterator[Case]:
    """One case for each output of a run; the run itself is made once."""
    run = lru_cache(maxsize=1)(run)
    for output in sorted(load_tensors(path)):
        if output.startswith("out."):
            yield Case(group, f"{path.stem} {output}", limit, partial(_output, path, output, run))


def _output(path: Path, output: str, run: Callable[[], tuple[Tensor, Tensor]]) -> float:
    golden = load_tensors(path)[output]
    latents, video = run()
    if output == "out.final_latent":
        return relative_l2(latents, golden)
    if output == "out.video":
        return relative_l2(video, golden)
    if output == "out.video_last_frame":
        return relative_l2(video[:, :, -1:], golden)
    raise ValueError(f"no run is known that gives {output}")


def _generate(
    model: Video2World,
    manifest: Mapping[str, Any],
    inputs: Mapping[str, Tensor],
    *,
    image: Path | None,
    has_negative: bool,
    num_conditional_frames: int,
    guidance: float,
    num_steps: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Final latents and decoded video, not clamped, of one run."""
    width, height = manifest["width_height"]
    geometry = VideoGeometry(width=width, height=height, num_latent_frames=manifest["state_t"], fps=16)
    frames = run_input(image, inputs["in.video_frames_THWC_uint8"], geometry, num_conditional_frames)
    generation = model.generate(
        frames,
        inputs["in.prompt_embedding"],
        geometry=geometry,
        negative_embedding_1ND=inputs["in.negative_embedding"] if has_negative else None,
        num_conditional_frames=num_conditional_frames,
        guidance=guidance,
        num_steps=num_steps,
        seed=seed,
    )
    return generation.latents, model.vae.decode(generation.latents)


def _dit(folder: Path, manifest: Mapping[str, Any], dtype: torch.dtype) -> DiT:
    state_dict = load_tensors(folder / _WEIGHTS)
    return build_dit(architecture_from_reference(manifest["dit_constructor_kwargs"]), state_dict, dtype)
