"""What happens once, before the first scenario: read the manifest, pin the versions, plan the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadModel
from tasks.config import RunConfig
from tasks.job import Job
from tasks.lanes import WorkerPlan
from tasks.manifest import Manifest, read_manifest
from tasks.records import invalid_row
from tasks.run import Run
from tasks.scenario import Scenario
from tasks.versions import Variant, resolve_adapter, resolve_model

__all__ = ["Shard", "load_manifest", "plan_shards", "resolve_versions"]


class Shard(BaseModel):
    """Jobs that one worker can serve without changing its base checkpoint, ordered by adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    jobs: tuple[Job, ...]


@task(name="load-manifest", cache_policy=NO_CACHE, persist_result=False)
def load_manifest(uri: str, config: RunConfig, *, input_root: str | None = None) -> Manifest:
    """Read and validate every row of a manifest."""
    manifest = read_manifest(uri, config.defaults, input_root=input_root)
    logger = get_run_logger()
    logger.info("%d rows: %d valid, %d invalid", manifest.num_rows, len(manifest.rows), len(manifest.invalid))
    for row in manifest.invalid:
        logger.warning("row %d (%s) is set aside: %s", row.row_number, row.scenario_id or "no id", row.message)
    return manifest


@task(name="resolve-versions", cache_policy=NO_CACHE, persist_result=False)
def resolve_versions(run: Run) -> dict[str, str]:
    """Pin every model file that the manifest needs by its SHA-256.

    Returns:
        Why a scenario cannot run, by scenario id; all others have their versions in `run`.
    """
    logger = get_run_logger()
    cache = run.home / "hashes"
    problems: dict[Variant | str, str] = {}
    for variant in {Variant.of(scenario): None for scenario in run.manifest.rows}:
        try:
            run.models[variant] = resolve_model(variant, run.config, hash_cache=cache)
            logger.info(
                "%s: base %s sha256 %.12s", variant, run.models[variant].base.path, run.models[variant].base.sha256
            )
        except BadModel as error:
            problems[variant] = str(error)
    for name in {use.name: None for scenario in run.manifest.rows for use in scenario.adapters}:
        try:
            problem = _pin_adapter(run, name, cache)
        except BadModel as error:
            problem = str(error)
        if problem:
            problems[name] = problem
        else:
            logger.info("adapter %s: sha256 %.12s", name, run.adapters[name].file.sha256)
    return {
        scenario.scenario_id: problem for scenario in run.manifest.rows if (problem := _problem_of(scenario, problems))
    }


def _pin_adapter(run: Run, name: str, cache: Path) -> str | None:
    if name not in run.config.adapters:
        known = ", ".join(run.config.adapters) or "none"
        return f"adapters: got {name!r}, expected one of the configuration's adapters ({known})"
    run.adapters[name] = resolve_adapter(name, run.config.adapters[name], hash_cache=cache)
    return None


def _problem_of(scenario: Scenario, problems: dict[Variant | str, str]) -> str | None:
    keys: list[Variant | str] = [Variant.of(scenario), *(use.name for use in scenario.adapters)]
    return next((problems[key] for key in keys if key in problems), None)


def plan_shards(jobs: Sequence[Job]) -> list[Shard]:
    """Split jobs by what must be loaded for them."""
    by_variant: dict[Variant, list[Job]] = {}
    for job in jobs:
        by_variant.setdefault(Variant.of(job.scenario), []).append(job)
    return [
        Shard(variant=variant, jobs=tuple(sorted(members, key=lambda job: [use.name for use in job.scenario.adapters])))
        for variant, members in by_variant.items()
    ]


def worker_plan(run: Run, shard: Shard) -> WorkerPlan:
    """What a worker for a shard must load, and the prompts it will be asked for."""
    names = {use.name: None for job in shard.jobs for use in job.scenario.adapters}
    prompts: dict[str, None] = {}
    for job in shard.jobs:
        prompts[job.prompts.refined] = None
        if job.scenario.negative_prompt:
            prompts[job.scenario.negative_prompt] = None
    return WorkerPlan(
        model=run.models[shard.variant],
        adapters=tuple(run.adapters[name] for name in sorted(names)),
        prompts=tuple(prompts),
        ema=run.config.checkpoints.ema,
    )


def rows_set_aside(run: Run) -> list[dict[str, Any]]:
    """Results rows of the manifest rows that are invalid."""
    return [
        invalid_row(row.row_number, row.scenario_id, row.message, row.raw, run_id=run.run_id)
        for row in run.manifest.invalid
    ]
