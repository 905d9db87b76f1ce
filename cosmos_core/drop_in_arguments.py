"""Flags of the drop-in command: every one of the reference's `video2world_lora.py` with its default, and a few more.

Source: reference file examples/video2world_lora.py.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadConfig
from cosmos_core.geometry import ASPECT_RATIOS, VideoGeometry, video_geometry
from cosmos_core.lora_state_dict import DEFAULT_TARGETS
from cosmos_core.negative_prompt import DEFAULT_NEGATIVE_PROMPT

__all__ = ["DEFAULT_NEGATIVE_PROMPT", "DEVIATIONS", "PROGRAM", "Arguments", "parse_arguments"]

PROGRAM = "video2world_lora"


DEVIATIONS: tuple[tuple[str, str], ...] = (
    ("several processes", "any number up to that of the model's attention heads renders each video together, rank 0 "
     "writes; --num_gpus must be their number if it is given"),
    ("strict loading", "a rank, alpha, target list or file that does not fit ends the command with one line"),
    ("adapter files", "--dit_path may also be an extracted adapter or a PEFT folder, whose own rank and alpha count"),
    ("merged adapter", "the adapter is added into the weights instead of computed beside them"),
    ("variant names", "a checkpoint whose name says another resolution or fps is refused"),
    ("guardrail", "that of the installed package decides; without one, only --disable_guardrail goes on"),
    ("quarantine", "clips that need a person's eye are written to quarantine/ beside the save path"),
    ("prompt refiner", "none is shipped: prompts are used as they are"),
    ("offloading", "nothing to offload: guardrails run on the CPU, and the text encoder leaves before the model comes"),
    ("batch items", "a bad item is reported with its number and skipped; the others run"),
    ("exit codes", "0 all published, 1 nothing could be done, 2 wrong usage, 3 something was not published"),
    ("record", "a JSON record with all inputs, hashes and proofs is written beside each video"),
    ("atomic files", "a video appears under its name only when it is complete"),
    ("empty negative prompt", "turns guidance off in one forward a step instead of two equal ones"),
    ("inputs", "what a file holds decides, not only its suffix; transparency, grey and rotation are handled"),
    ("initial weights", "--init_lora_weights changes nothing: every matrix comes from the file"),
)  # fmt: skip
"""What differs from the reference on purpose, as in docs/drop-in.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """One command line."""

    model_size: str
    resolution: str
    fps: int
    dit_path: str
    """Empty means the standard base checkpoint."""
    use_lora: bool
    lora_rank: int
    lora_alpha: float
    lora_target_modules: str
    init_lora_weights: bool
    prompt: str
    input_path: str
    negative_prompt: str
    num_conditional_frames: int
    batch_input_json: str | None
    guidance: float
    seed: int
    save_path: str
    num_gpus: int
    disable_guardrail: bool
    offload_guardrail: bool
    disable_prompt_refiner: bool
    offload_prompt_refiner: bool
    benchmark: bool
    checkpoint_root: Path
    aspect_ratio: str
    num_steps: int
    load_ema: bool
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "bfloat16"]
    given: frozenset[str] = frozenset()
    """Names of those flags whose default may give way to what a file or torchrun says, if they were written out."""

    @property
    def geometry(self) -> VideoGeometry:
        """Size of every clip.

        Raises:
            BadVariant: the model does not exist in that resolution, frame rate or aspect ratio.
        """
        return video_geometry(
            model=self.model_size, resolution=self.resolution, fps=self.fps, aspect_ratio=self.aspect_ratio
        )


def parse_arguments(arguments: Sequence[str] | None = None) -> Arguments:
    """Read a command line; `--help` prints and ends the process, on rank 0 only.

    Raises:
        BadConfig: a flag is unknown or has a wrong value.
        BadVariant: the model does not exist in that resolution, frame rate or aspect ratio.
    """
    namespace = _parser().parse_args(arguments, argparse.Namespace(given=frozenset()))
    parsed = Arguments(**vars(namespace))
    model = MODELS[parsed.model_size]
    # A model of one variant needs no choice.
    if len(model.resolutions) == 1 and "resolution" not in parsed.given:
        parsed = replace(parsed, resolution=model.resolutions[0])
    if len(model.fps) == 1 and "fps" not in parsed.given:
        parsed = replace(parsed, fps=model.fps[0])
    _ = parsed.geometry
    return parsed


class _Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, and speaks on rank 0 only."""

    def error(self, message: str) -> NoReturn:
        raise BadConfig(message, fix="See --help.")

    def print_help(self, file: Any = None) -> None:
        if os.environ.get("RANK", "0") == "0":
            super().print_help(file)


class _Given(argparse.Action):
    """Stores a value and that it was written out."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        namespace.given |= {self.dest}


def _parser() -> _Parser:
    parser = _Parser(
        prog=f"torchrun --nproc_per_node=N -m cosmos_core.{PROGRAM}",
        description="Video2World with a LoRA adapter, under the flags of the reference's script. The N processes "
        "render each video together; rank 0 writes.",
        epilog="deliberate deviations from the reference (docs/drop-in.md):\n"
        + "\n".join(f"  {title}: {sentence}" for title, sentence in DEVIATIONS),
        formatter_class=_Formatter,
    )
    _add_model(parser)
    _add_lora(parser)
    _add_request(parser)
    _add_run(parser)
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in every line, line breaks of the epilog as they are."""


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    resolutions = sorted({resolution for model in MODELS.values() for resolution in model.resolutions})
    group.add_argument("--model_size", choices=list(MODELS), default="2B", help="size of the model")
    group.add_argument("--resolution", choices=resolutions, default="720", action=_Given, help="lines; tiny has 112")
    group.add_argument("--fps", type=int, choices=[10, 16], default=16, action=_Given, help="tiny has 10")
    group.add_argument(
        "--dit_path",
        default="",
        help="LoRA training checkpoint, extracted adapter or PEFT folder with --use_lora; base checkpoint without; "
        "empty: the standard base checkpoint",
    )
    group.add_argument("--load_ema", action="store_true", help="take the EMA weights of a training checkpoint")
    group.add_argument("--checkpoint_root", type=Path, default=Path("checkpoints"), help="folder of the model files")
    group.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: cuda if there is one")
    group.add_argument(
        "--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on cuda, else float32"
    )


def _add_lora(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("LoRA")
    group.add_argument("--use_lora", action="store_true", help="use the adapter in --dit_path")
    group.add_argument("--lora_rank", type=_whole(1, 2**16), default=16, action=_Given, help="rank of the training")
    group.add_argument("--lora_alpha", type=_positive, default=16, action=_Given, help="alpha of the training, which "
                       "training checkpoints do not store")  # fmt: skip
    group.add_argument("--lora_target_modules", default=DEFAULT_TARGETS, action=_Given, help="targets of the training")
    group.add_argument("--init_lora_weights", action="store_true", default=True, help="accepted; changes nothing")


def _add_request(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video")
    group.add_argument("--prompt", default="", help="what happens")
    group.add_argument("--input_path", default="assets/video2world/input0.jpg", help="image or video to start from")
    group.add_argument("--negative_prompt", default=DEFAULT_NEGATIVE_PROMPT, help="empty: no guidance")
    group.add_argument("--num_conditional_frames", type=int, choices=[1, 5], default=1, help="5 needs a video")
    group.add_argument("--batch_input_json", default=None, help="list of {input_video, prompt, output_video}, instead "
                       "of --prompt, --input_path and --save_path")  # fmt: skip
    group.add_argument("--guidance", type=_finite, default=7.0, help="guidance scale")
    group.add_argument("--seed", type=_whole(0, 2**32 - 1), default=0, help="of the noise, the same for every item")
    group.add_argument("--aspect_ratio", choices=ASPECT_RATIOS, default="16:9", help="width to height")
    group.add_argument("--num_steps", type=_whole(1, 1000), default=35, help="denoising steps")
    group.add_argument("--save_path", default="output/generated_video.mp4", help="video to write")


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--num_gpus", type=_whole(1, 2**16), default=1, action=_Given, help="if given, the number of "
                       "processes that torchrun starts")  # fmt: skip
    group.add_argument("--disable_guardrail", action="store_true", help="publish unchecked; the record says so")
    group.add_argument("--offload_guardrail", action="store_true", help="accepted; guardrails run on the CPU")
    group.add_argument("--disable_prompt_refiner", action="store_true", help="accepted; there is no refiner")
    group.add_argument("--offload_prompt_refiner", action="store_true", help="accepted; there is no refiner")
    group.add_argument("--benchmark", action="store_true", help="generate four times, print the mean of the last three")


class _whole:
    """Type of a whole number within limits."""

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def __call__(self, text: str) -> int:
        if not self._least <= (value := int(text)) <= self._most:
            raise argparse.ArgumentTypeError(f"{value} is not within {self._least} and {self._most}")
        return value

    def __repr__(self) -> str:
        return "whole number"


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def _positive(text: str) -> float:
    if not (value := _finite(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value
