"""`crossroads plan`: where a manifest would be rendered, how long that takes and what memory it needs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.manifest import AsJson, InputRoot, ManifestUri
from flows.cli.plan_tables import CARDS_GB, fits, print_plan
from flows.cli.tables import make_console
from tasks.gpus import imagined_gpus, machine_gpus
from tasks.run_plan import RunPlan, VariantPlan, plan_run

__all__ = ["plan", "plan_document"]

EXIT_NOT_ALL = 3


def plan(
    manifest: ManifestUri,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Run configuration: a YAML file or a shipped name.")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="GPUS", help="Plan for these instead of this machine's: 8xH200, 2x48GB, cpu."),
    ] = None,
    input_root: InputRoot = None,
    as_json: AsJson = False,
) -> None:
    """Print placement, times and memory of a run before anything starts.

    Exit codes: 0 every row can be rendered, 3 some rows are invalid or do not fit, 1 nothing can be rendered.
    """
    from tasks.config import load_config
    from tasks.manifest import read_manifest

    settings = load_config(Path(config) if config else None)
    read = read_manifest(manifest, settings.defaults, input_root=input_root)
    cards = imagined_gpus(gpus) if gpus is not None else machine_gpus(settings.worker)
    made = plan_run(read, settings, cards)
    if as_json:
        typer.echo(json.dumps(plan_document(made), indent=2))
    else:
        print_plan(made, make_console())
    if made.num_placed < made.num_rows:
        raise typer.Exit(EXIT_NOT_ALL if made.num_placed else 1)


def plan_document(made: RunPlan) -> dict[str, Any]:
    """The plan, JSON-ready."""
    return {
        "manifest": made.manifest,
        "num_rows": made.num_rows,
        "num_invalid": made.num_invalid,
        "num_placed": made.num_placed,
        "gpus": [asdict(gpu) | {"kind": gpu.kind} for gpu in made.gpus],
        "variants": [_variant_document(variant) for variant in made.variants],
    }


def _variant_document(variant: VariantPlan) -> dict[str, Any]:
    times = variant.timetable()
    placement = variant.placement
    memory = {phase: [asdict(part) for part in parts] for phase, parts in variant.memory().items()}
    return {
        "variant": variant.variant.model_dump(),
        "num_scenarios": variant.num_scenarios,
        "stages": [
            asdict(stage)
            | {"durations": [asdict(variant.duration(work, stage.group_size)) for work, _ in variant.works]}
            for stage in placement.stages
        ],
        "savings": list(placement.savings),
        "gpus_left_out": list(placement.left_out),
        "problem": placement.problem,
        "wall_s": times[0] if times else None,
        "device_hours": times[1] / 3600 if times else None,
        "memory": memory if variant.gpus else None,
        "fits": {f"{size} GB": fits(variant, size) for size in CARDS_GB},
    }
