"""`crossroads reproduce`: run a record's job again, and say whether the same video comes out."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.environment import prepare_environment
from flows.cli.generate import EXIT_INCOMPLETE, run_flow
from flows.cli.tables import cell, make_console
from tasks.reproduction import Reproduction, compare_with_record, open_record
from tasks.rerun import prepare_rerun

__all__ = ["reproduce"]


def reproduce(
    target: Annotated[str, typer.Argument(metavar="RECORD", help="Path or s3:// address of a record.")],
    into: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="New folder for the run; default: a temporary one, kept.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", metavar="FILE", help="Says where checkpoints and adapters lie now."),
    ] = None,
    input_uri: Annotated[str | None, typer.Option("--input", metavar="FILE", help="Where the input lies now.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of the run.")] = False,
) -> None:
    """Run a record's job again in a folder of its own, and compare the video with the record's bit for bit.

    Input, model files, policy and numbers are verified by their hashes before anything is generated.

    Exit codes: 0 the videos are identical; 3 they differ; 1 the job could not be run as it was; 2 wrong usage.
    """
    from tasks.config import load_config

    store, record = open_record(target)
    folder = (into or Path(tempfile.mkdtemp(prefix="crossroads-reproduce-"))).absolute()
    elsewhere = load_config(config) if config else None
    rerun = prepare_rerun(record, folder, elsewhere=elsewhere, input_uri=input_uri)
    prepare_environment(verbose=verbose)
    os.environ["CROSSROADS_HOME"] = str(rerun.home)
    os.environ.pop("CROSSROADS_LINEAGE", None)  # the rerun's rows stay in its folder
    run_flow(
        Console(stderr=True),
        manifest=str(rerun.manifest),
        output=str(rerun.output),
        config=str(rerun.config),
        input_root=None,
    )
    found = compare_with_record(store, record, rerun)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2))
    else:
        _show(make_console(), found)
    if not found.identical:
        raise typer.Exit(EXIT_INCOMPLETE)


def _show(console: Console, found: Reproduction) -> None:
    lines = [
        f"{found.scenario_id}: {'bit-identical' if found.identical else 'another video'}, sha256 {found.got_sha256}"
    ]
    if not found.identical:
        lines.append(f"the record's: sha256 {found.expected_sha256}")
    if found.note:
        lines.append(f"they cannot be compared: {found.note}")
    if (difference := found.difference) is not None and difference.first_pixel is None:
        lines.append("every decoded frame is equal: the files differ, the pictures do not")
    elif difference is not None and difference.first_pixel is not None:
        column, row = difference.first_pixel
        lines += [
            f"PSNR {difference.psnr_db:.2f} dB, largest error {difference.max_error} of 255, "
            f"{difference.num_different_frames} of {difference.num_frames} frames differ",
            f"first in frame {difference.first_frame} at column {column}, row {row}: "
            f"{difference.got_rgb} instead of {difference.expected_rgb}",
        ]
    lines += [f"not as it was: {name} {now}, then {then}" for name, (then, now) in found.environment.items()]
    lines.append(f"the new video: {found.video}")
    for line in lines:
        console.print(cell(line, 1000), soft_wrap=True)
