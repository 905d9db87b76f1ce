"""`crossroads checkpoint`: what a file is, and which files a model needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cosmos_core.architecture import MODELS, ModelArchitecture, model_architecture
from cosmos_core.errors import BadVariant, CheckpointMissing
from cosmos_core.model_size import dit_parameters, text_encoder_parameters, vae_parameters

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)
console = Console()

_REVISIONS = {
    "nvidia/Cosmos-Predict2-2B-Video2World": "f50c09f5d8ab133a90cac3f4886a6471e9ba3f18",
    "nvidia/Cosmos-Predict2-14B-Video2World": "03b03a377fede782647afac998f674d9f358e319",
}
"""Revisions that the reference's download script pins."""


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Checkpoint: .pt, .pth, .safetensors, or a folder of shards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_hash: Annotated[bool, typer.Option("--no-hash", help="Skip the SHA-256, which takes a while.")] = False,
) -> None:
    """Print what a checkpoint is: kind, size class, keys, dtypes, LoRA rank and targets, hashes."""
    if not file.exists():
        raise CheckpointMissing("no such checkpoint", got=file)
    command = [sys.executable, "-m", "cosmos_core.checkpoint_report", str(file)]
    command += ["--json"] * as_json + ["--no-hash"] * no_hash
    raise typer.Exit(subprocess.run(command).returncode)


@app.command()
def plan(
    model: Annotated[str, typer.Option(help=" | ".join(MODELS))] = "2B",
    resolution: Annotated[str, typer.Option(help="Resolution of the variant.")] = "720",
    fps: Annotated[int, typer.Option(help="Frames per second of the variant.")] = 16,
    root: Annotated[Path, typer.Option(help="Checkpoint folder.")] = Path("checkpoints"),
) -> None:
    """Say which public files a variant needs, how large they are, where they go, and which are there."""
    architecture = model_architecture(model)
    if architecture.made_by:
        console.print(f"Model {architecture.name} needs no download: {architecture.made_by}", highlight=False)
        return
    _require_variant(architecture, resolution, fps)
    for path, origin, size in _files(architecture, resolution, fps, root):
        there = "there" if path.exists() else "missing"
        console.print(f"{there:>8}  {path}", highlight=False, soft_wrap=True)
        console.print(f"          {size}, from {origin}", highlight=False, soft_wrap=True, style="dim")
    console.print("Sizes are computed from parameter counts; the published T5 file also holds the decoder.")


def _require_variant(architecture: ModelArchitecture, resolution: str, fps: int) -> None:
    if resolution not in architecture.resolutions or fps not in architecture.fps:
        expected = f"{' | '.join(architecture.resolutions)} and {' | '.join(map(str, architecture.fps))} fps"
        raise BadVariant(
            f"model {architecture.name} has no such variant", got=f"{resolution}, {fps} fps", expected=expected
        )


def _files(architecture: ModelArchitecture, resolution: str, fps: int, root: Path) -> list[tuple[Path, str, str]]:
    repository = architecture.repository
    pinned = f"{repository} at revision {_REVISIONS[repository]}"
    folder = root / repository
    return [
        (
            folder / architecture.checkpoint_name(resolution, fps),
            pinned,
            _gigabytes(2 * dit_parameters(architecture.dit)),
        ),
        (folder / "tokenizer" / "tokenizer.pth", pinned, _gigabytes(4 * vae_parameters(architecture.vae))),
        (
            root / architecture.text_encoder,
            f"{architecture.text_encoder}: config.json, tokenizer files, pytorch_model.bin",
            f"{_gigabytes(4 * text_encoder_parameters(architecture.text))} (encoder alone, float32)",
        ),
    ]


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
