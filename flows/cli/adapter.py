"""`crossroads adapter`: from a training checkpoint of gigabytes to an adapter file of megabytes, and to other programs.

The work is done by `python -m cosmos_core.adapter_tool` in a process of its own: this one never imports torch.
"""

from __future__ import annotations

import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

Source = Annotated[
    Path, typer.Argument(help="Training checkpoint, extracted adapter, PEFT folder, or diffusers LoRA file.")
]
Alpha = Annotated[float | None, typer.Option(help="Alpha of the training, for files that do not say it.")]
Rank = Annotated[int | None, typer.Option(help="Rank of the training; checked if given.")]
Targets = Annotated[str | None, typer.Option(help="Target modules, separated by commas; checked if given.")]
Ema = Annotated[bool, typer.Option("--ema", help="Take the EMA network of a training checkpoint.")]
SourceAdapter = Annotated[str, typer.Option(help="Name under which the file stores the adapter.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


class Layout(StrEnum):
    """Layouts of other programs."""

    PEFT = "peft"
    DIFFUSERS = "diffusers"


@app.command()
def extract(
    source: Annotated[Path, typer.Argument(help="Training checkpoint (iter_*.pt).")],
    out: Annotated[Path, typer.Argument(help="Adapter file to write (.safetensors).")],
    alpha: Annotated[float, typer.Option(help="Alpha of the training; the checkpoint does not store it.")],
    rank: Rank = None,
    target_modules: Targets = None,
    base: Annotated[
        Path | None, typer.Option(help="Base checkpoint that the training started from; compared and hashed.")
    ] = None,
    ema: Ema = False,
    resolution: Annotated[str | None, typer.Option(help="Resolution of the training; by default from names.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames per second of the training; by default from names.")] = None,
    source_adapter: SourceAdapter = "default",
    overwrite: Overwrite = False,
) -> None:
    """Take the adapter out of a training checkpoint, with rank, alpha, targets and base written into it."""
    _run(
        "extract",
        [source, out],
        {
            "alpha": alpha,
            "rank": rank,
            "target-modules": target_modules,
            "base": base,
            "ema": ema,
            "resolution": resolution,
            "fps": fps,
            "source-adapter": source_adapter,
            "overwrite": overwrite,
        },
    )


@app.command()
def inspect(
    source: Source,
    alpha: Alpha = None,
    ema: Ema = False,
    source_adapter: SourceAdapter = "default",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what an adapter file is: layout, rank, alpha, size, norms, and its manifest."""
    _run("inspect", [source], {"alpha": alpha, "ema": ema, "source-adapter": source_adapter, "json": as_json})


@app.command()
def export(
    source: Source,
    out: Annotated[Path, typer.Argument(help="Folder (peft) or .safetensors file (diffusers) to write.")],
    layout: Annotated[Layout, typer.Option("--format", help="Whose layout.")],
    alpha: Alpha = None,
    rank: Rank = None,
    target_modules: Targets = None,
    ema: Ema = False,
    source_adapter: SourceAdapter = "default",
    overwrite: Overwrite = False,
) -> None:
    """Write an adapter for PEFT or diffusers; reading it back gives the same tensors."""
    _run(
        "export",
        [source, out],
        {
            "format": str(layout),
            "alpha": alpha,
            "rank": rank,
            "target-modules": target_modules,
            "ema": ema,
            "source-adapter": source_adapter,
            "overwrite": overwrite,
        },
    )


@app.command(name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="PEFT folder, diffusers LoRA file, or bare LoRA tensors.")],
    out: Annotated[Path, typer.Argument(help="Adapter file to write (.safetensors).")],
    alpha: Alpha = None,
    rank: Rank = None,
    base_sha256: Annotated[str | None, typer.Option(help="SHA-256 of the base checkpoint, if it is known.")] = None,
    source_adapter: SourceAdapter = "default",
    overwrite: Overwrite = False,
) -> None:
    """Turn an adapter of another program into an adapter file with a manifest."""
    _run(
        "import",
        [source, out],
        {
            "alpha": alpha,
            "rank": rank,
            "base-sha256": base_sha256,
            "source-adapter": source_adapter,
            "overwrite": overwrite,
        },
    )


def _run(command: str, paths: list[Path], options: dict[str, object]) -> None:
    """Run the tool; it prints its own summary or its one line of error."""
    arguments = [sys.executable, "-m", "cosmos_core.adapter_tool", command]
    for name, value in options.items():
        if value is True:
            arguments.append(f"--{name}")
        elif value is not None and value is not False:
            arguments.append(f"--{name}={value}")
    arguments += ["--", *map(str, paths)]
    raise typer.Exit(subprocess.run(arguments).returncode)
