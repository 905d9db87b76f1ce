"""Clips of the tiny model on held-out scenes, for `benchmarks.tiny_world` to measure.

    python -m benchmarks.tiny_clips build/tiny/evaluation --scenes 64

Every scene is rendered by the simulator (seeds that no training saw); its first frame and one of its captions go into
the model, once for every case: the base with the ordinary and with an incident's caption, every adapter, strengths of
one adapter, two adapters together, other numbers of steps. Equal scenes have equal noise in all cases.

Legend: B batch, C latent channels, T latent frames, H W latent height and width.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosmos_core.adapter_file import read_adapter
from cosmos_core.architecture import MODELS
from cosmos_core.checkpoint import load_dit
from cosmos_core.conditioning import guided_denoiser
from cosmos_core.dit import DiT
from cosmos_core.geometry import LATENT_FRAMES
from cosmos_core.lora import activate, add_adapter
from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT
from cosmos_core.pixels import normalise, to_bytes
from cosmos_core.sampler import initial_noise, sample, sigma_schedule
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.vae import VideoVAE
from cosmos_core.video_file import write_video
from examples.tiny_model.adapter_export import ADAPTER_OF
from examples.traffic_world import Clip, make_clip

__all__ = ["CASES", "Case", "main"]

_MODEL = MODELS["tiny"]
_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to make a clip of every scene."""

    name: str
    family: str | None = None
    """Incident that the caption tells; none is the ordinary caption."""
    strengths: Mapping[str, float] = field(default_factory=dict)
    num_steps: int = 35


CASES = (
    Case(name="base"),
    Case(name="base-20-steps", num_steps=20),
    Case(name="base-12-steps", num_steps=12),
    *(Case(name=f"base-{family}", family=family) for family in ADAPTER_OF),
    *(Case(name=adapter, family=family, strengths={adapter: 1.0}) for family, adapter in ADAPTER_OF.items()),
    *(
        Case(name=f"collision-{strength:g}", family="t_bone", strengths={"collision": strength})
        for strength in (0.0, 0.5, 2.0)
    ),
    Case(name="collision-20-steps", family="t_bone", strengths={"collision": 1.0}, num_steps=20),
    Case(name="collision+rear_end", family="t_bone", strengths={"collision": 0.7, "rear_end": 0.7}),
)


class Model:
    """The tiny model with its adapters, several clips at a time.

    Args:
        folder: of the installed model.
        device: to work on; bfloat16 on a GPU, float32 on a CPU.
        adapters: to load.
    """

    def __init__(self, folder: Path, device: torch.device, adapters: Iterable[str]) -> None:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.dit: DiT = load_dit(folder / _MODEL.checkpoint_name("112", 10), _MODEL.dit, device=device, dtype=dtype)
        for adapter in adapters:
            stored = read_adapter(folder / "adapters" / f"{adapter}.safetensors")
            add_adapter(self.dit, stored.tensors, stored.spec(), name=adapter)
        self.vae = VideoVAE.load(folder / "tokenizer/tokenizer.safetensors", _MODEL.vae, device=device, dtype=dtype)
        self.text_encoder = TextEncoder.load(folder / "text_encoder", device=device, max_length=_MODEL.text_length)
        self._negative = self.text_encoder.encode([DEFAULT_NEGATIVE_PROMPT]).embeddings

    @torch.no_grad()
    def generate(
        self, first_frames_BHWC: np.ndarray, prompts: list[str], seeds: list[int], *, num_steps: int, guidance: float
    ) -> list[np.ndarray]:
        """Frames uint8 [F, H, W, 3] of every clip."""
        pixels = torch.from_numpy(first_frames_BHWC).permute(0, 3, 1, 2)[:, :, None].to(self.dit.device)
        clean = self.vae.encode(normalise(pixels, dtype=self.dit.dtype)).float()
        shape = (1, clean.shape[1], LATENT_FRAMES[10], *clean.shape[-2:])
        noise = torch.cat([initial_noise(shape, seed) for seed in seeds]).to(self.dit.device)
        denoiser = guided_denoiser(
            self.dit,
            clean_BCKHW=clean,
            prompt_BND=self.text_encoder.encode(prompts).embeddings,
            negative_BND=self._negative.expand(len(prompts), -1, -1),
            guidance=guidance,
        )
        latents: Tensor = sample(denoiser, noise, sigma_schedule(num_steps))
        return [to_bytes(video) for video in self.vae.decode(latents.to(self.vae.dtype))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Render the scenes, make all clips, and list them in `clips.json`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiny_clips", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/crossroads/tiny"))
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--cases", nargs="+", default=[case.name for case in CASES])
    parser.add_argument("--raw", action="store_true", help="keep frames as arrays: large, exact, without ffmpeg")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.out.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if case.name in options.cases]
    model = Model(options.model, device, {adapter for case in cases for adapter in case.strengths})
    scenes = [make_clip(seed) for seed in range(options.scenes)]
    listed = []
    started = time.monotonic()
    for case in cases:
        activate(model.dit, case.strengths)
        suitable = [clip for clip in scenes if case.family is None or case.family in clip.incident_captions]
        for start in range(0, len(suitable), _BATCH):
            group = suitable[start : start + _BATCH]
            prompts = [_prompt(clip, case) for clip in group]
            clips = model.generate(
                np.stack([clip.frames[0] for clip in group]),
                prompts,
                [clip.labels.seed for clip in group],
                num_steps=case.num_steps,
                guidance=options.guidance,
            )
            for clip, prompt, frames in zip(group, prompts, clips, strict=True):
                file = f"{case.name}-{clip.labels.seed:04d}.{'npy' if options.raw else 'mp4'}"
                if options.raw:
                    np.save(options.out / file, frames)
                else:
                    write_video(frames, options.out / file, fps=10, crf=14)
                listed.append({"file": file, "seed": clip.labels.seed, "case": asdict(case), "prompt": prompt})
        print(f"{case.name}: {len(suitable)} clips, {time.monotonic() - started:.0f} s", flush=True)
    about = {"guidance": options.guidance, "device": str(device), "clips": listed}
    (options.out / "clips.json").write_text(json.dumps(about, indent=1))


def _prompt(clip: Clip, case: Case) -> str:
    return clip.caption if case.family is None else clip.incident_captions[case.family]


if __name__ == "__main__":
    main()
