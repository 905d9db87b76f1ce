"""`crossroads generate` and `crossroads demo`: run the flow in this process, with a display."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from rich.console import Console

from cosmos_core.errors import BadConfig, CrossroadsError
from flows.cli.display import TerminalDisplay, results_table
from flows.cli.environment import prepare_environment

__all__ = ["EXIT_INCOMPLETE", "demo", "generate", "run_flow", "tiny"]

EXIT_INCOMPLETE = 3
"""The run ended, but some rows were invalid or failed."""

_RECORDING_TIMEOUT_S = 20.0
_MAX_TABLE_ROWS = 50

console = Console()


def generate(
    manifest: Annotated[str, typer.Argument(help="Parquet, JSONL, CSV or JSON batch file; a path or s3:// address.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or s3:// prefix for the results.")],
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Run configuration: a YAML file or a shipped name.")
    ] = None,
    input_root: Annotated[
        str | None, typer.Option(help="Folder of the inputs, if it is not the manifest's own.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of the run.")] = False,
) -> None:
    """Generate, check and publish every scenario of a manifest.

    Exit codes: 0 all rows ended as published, blocked or quarantined; 3 some rows were invalid or failed; 1 nothing
    could be done; 2 wrong usage.
    """
    code = run_manifest(manifest, output, config=config, input_root=input_root, verbose=verbose)
    if code:
        raise typer.Exit(code)


def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results.")] = "output/demo",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of the run.")] = False,
) -> None:
    """Render the example scenarios with the tiny model; some are invalid or refused on purpose."""
    from tasks.config import SHIPPED

    manifest = SHIPPED / "examples" / "demo" / "manifest.parquet"
    if not manifest.exists():
        raise BadConfig("the example scenarios are not here", got=manifest, fix="Run the demo from a checkout")
    tiny(Path("checkpoints"))
    code = run_manifest(str(manifest), output, config="default", input_root=None, verbose=verbose)
    if code not in (0, EXIT_INCOMPLETE):
        raise typer.Exit(code)


def tiny(
    root: Annotated[Path, typer.Argument(help="Checkpoint folder.")] = Path("checkpoints"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Install it again if it is there.")] = False,
) -> None:
    """Install the tiny model that comes with Crossroads: trained on drawn traffic, runs on any CPU."""
    if (root / "crossroads" / "tiny").exists() and not overwrite:
        console.print(f"The tiny model is in {root / 'crossroads' / 'tiny'}", highlight=False)
        return
    command = [sys.executable, "-m", "cosmos_core.tiny", str(root), *(["--overwrite"] if overwrite else [])]
    if subprocess.run(command).returncode != 0:
        raise BadConfig("the tiny model could not be installed", got=root, fix="See the lines above")


def run_manifest(manifest: str, output: str, *, config: str | None, input_root: str | None, verbose: bool) -> int:
    """Run the flow over a manifest; returns the exit code.

    Raises:
        CrossroadsError: nothing could be done at all.
    """
    prepare_environment(verbose=verbose)
    _check_before_starting(manifest, output, config=config, input_root=input_root)
    run_flow(console, manifest=manifest, output=output, config=config, input_root=input_root)
    return _conclude(output)


def run_flow(console: Console, **parameters: str | None) -> None:
    """Run the flow in this process, showing how far it is; the environment must have been prepared.

    Raises:
        CrossroadsError: nothing could be done at all.
    """
    display = TerminalDisplay(console)
    with display.shown():
        display.say("starting Prefect")
        from flows.generate_scenarios import generate_scenarios
        from tasks.progress import listening

        with listening(display):
            state = generate_scenarios(**parameters, return_state=True)
        error = state.result(raise_on_failure=False)
        if isinstance(error, CrossroadsError):
            raise error
        if isinstance(error, BaseException) and not (state.message or "").startswith("Nothing could be done"):
            raise error
        display.say("recording")
        _wait_until_recorded(state.state_details.flow_run_id)
        display.say("done")


def _check_before_starting(manifest: str, output: str, *, config: str | None, input_root: str | None) -> None:
    """Refuse within a second or two what would be refused after the start of a server."""
    from tasks.config import find_config_file, load_config
    from tasks.gpus import machine_gpus
    from tasks.guards import Guards
    from tasks.manifest import read_manifest
    from tasks.policy import load_policy
    from tasks.run_plan import plan_run
    from tasks.storage import open_store

    settings = load_config(Path(config) if config else None)
    with Guards(settings.guards) as guards:
        guards.require_use(load_policy(find_config_file(settings.policy)))
    read = read_manifest(manifest, settings.defaults, input_root=input_root)
    plan_run(read, settings, machine_gpus(settings.worker))
    open_store(output)


def _wait_until_recorded(flow_run_id: UUID | None) -> None:
    """Let a temporary server write down the last task states before it goes with this process."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        return
    deadline = time.monotonic() + _RECORDING_TIMEOUT_S
    with get_client(sync_client=True) as client:
        while flow_run_id is not None and time.monotonic() < deadline:
            task_runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))
            if task_runs and all(run.state is not None and run.state.is_final() for run in task_runs):
                return
            time.sleep(0.5)


def _conclude(output: str) -> int:
    from tasks.device_time import device_time
    from tasks.records import RESULTS_NAME, read_results
    from tasks.storage import open_store

    store = open_store(output)
    rows = read_results(store)
    assert rows is not None, "a run that ended has written its results"
    console.print(results_table(rows[:_MAX_TABLE_ROWS]))
    if len(rows) > _MAX_TABLE_ROWS:
        console.print(f"and {len(rows) - _MAX_TABLE_ROWS} more")
    gaps = Counter(row["reason"] for row in rows if row["video_uri"] and row["reason"] and not row["review"])
    for note, number in gaps.most_common(5):
        console.print(f"{number} published with a gap: {note}", style="yellow", highlight=False)
    counts = Counter(row["status"] for row in rows)
    console.print(", ".join(f"{count} {status}" for status, count in counts.most_common()))
    if used := device_time(rows):
        console.print(f"Device time:   {used}", highlight=False)
    console.print(f"Contact sheet: {store.uri_of('index.html')}", highlight=False, soft_wrap=True)
    if held := sum(row["status"] == "quarantined" and not row["review"] for row in rows):
        console.print(
            f"Held clips:    {held} to look at: crossroads review list {output}", highlight=False, soft_wrap=True
        )
    console.print(f"Results:       {store.uri_of(RESULTS_NAME)}", highlight=False, soft_wrap=True)
    undone = counts["invalid"] + counts["failed"]
    if undone == len(rows):
        return 1
    return EXIT_INCOMPLETE if undone else 0
