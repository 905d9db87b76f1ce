"""`crossroads status|watch|cancel|retry`: runs on the Prefect server, wherever they run."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cosmos_core.errors import EndpointUnavailable
from flows.cli.generate import EXIT_INCOMPLETE
from flows.cli.tables import cell, make_console

if TYPE_CHECKING:
    from tasks.run_control import RunStatus

__all__ = ["cancel", "retry", "status", "watch"]

Run = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, or a name that only one run has.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def status(run: Run, as_json: AsJson = False) -> None:
    """Show the state of a run, and how many scenarios ended in which way."""
    from tasks.run_control import run_status

    found = run_status(run)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2, default=str))
    else:
        _show(make_console(), found)


def watch(
    run: Run,
    interval: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks.")] = 2.0,
) -> None:
    """Follow a run to its end. Interrupting this does not touch the run.

    Exit codes: 0 completed; 3 completed, but some rows were invalid or failed; 1 failed, crashed or cancelled; 2 wrong
    usage.
    """
    from tasks.run_control import run_status

    console = make_console()
    shown, found = "", run_status(run)
    while True:
        line = _line(found)
        if line != shown:
            console.print(cell(f"{datetime.now():%H:%M:%S}  {line}", 500))
            shown = line
        if found.is_final:
            break
        time.sleep(interval)
        try:
            found = run_status(found.run_id)
        except EndpointUnavailable as error:
            # The run does not need this command, nor the server at every moment.
            console.print(cell(str(error), 500))
            shown = ""
    _show(console, found)
    if found.state_type != "COMPLETED":
        raise typer.Exit(1)
    if found.state == "CompletedWithFailures":
        raise typer.Exit(EXIT_INCOMPLETE)


def cancel(run: Run) -> None:
    """Stop a run; what is finished stays, and `crossroads retry` goes on from there."""
    from tasks.run_control import cancel_run

    run_id, state = cancel_run(run)
    make_console().print(f"{run_id}: {state}", markup=False)


def retry(run: Run) -> None:
    """Start an ended run again with the same parameters; finished scenarios are reused."""
    from tasks.run_control import retry_run

    run_id, is_new = retry_run(run)
    console = make_console()
    console.print(f"Run:    {run_id}" + ("" if is_new else " (this retry was started before)"), markup=False)
    console.print(f"Follow: crossroads watch {run_id}", markup=False)


def _line(found: RunStatus) -> str:
    progress = f", {found.progress:.0f} %" if found.progress is not None and not found.is_final else ""
    return f"{found.state}{progress}{f': {found.message}' if found.message else ''}"


def _show(console: Console, found: RunStatus) -> None:
    lines = {"Run": f"{found.run_id} ({found.name})", "State": _line(found)}
    if found.started_at is not None:
        end = found.ended_at or datetime.now(found.started_at.tzinfo)
        lines["Time"] = f"{found.started_at:%Y-%m-%d %H:%M:%S} UTC, {(end - found.started_at).total_seconds():.0f} s"
    lines |= {
        name.capitalize(): str(found.parameters[name]) for name in ("manifest", "output") if found.parameters.get(name)
    }
    if found.counts is not None:
        lines["Rows"] = ", ".join(f"{count} {name}" for name, count in found.counts.items())
    elif found.is_final:
        lines["Rows"] = f"unknown: {found.counts_note}"
    for name, text in lines.items():
        console.print(cell(f"{name + ':':<10}{text}", 1000), soft_wrap=True)
