"""What happens once, before the first scenario: read the manifest, pin the versions, plan the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff
from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import AdapterMismatch, BadModel, BadRequest, Transient
from cosmos_core.memory_mode import Saving
from tasks.config import RunConfig
from tasks.devices import Device
from tasks.job import Job
from tasks.lanes import WorkerPlan
from tasks.manifest import Manifest, read_manifest
from tasks.records import invalid_row
from tasks.run import Run
from tasks.run_registry import RunRegistry
from tasks.scenario import Scenario
from tasks.versions import AdapterVersion, Variant, registered_adapter, require_parent, resolve_adapter, resolve_model

__all__ = ["Shard", "load_manifest", "plan_shards", "resolve_versions"]


class Shard(BaseModel):
    """Jobs that one worker can serve without changing its base checkpoint, ordered by adapter, placed in one way."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: Variant
    jobs: tuple[Job, ...]
    savings: tuple[Saving, ...] = ()
    groups: tuple[tuple[Device, ...], ...]
    """Devices that render one video together, for each video that is rendered at the same time."""


@task(name="load-manifest", cache_policy=NO_CACHE, persist_result=False)
def load_manifest(uri: str, config: RunConfig, *, input_root: str | None = None) -> Manifest:
    """Read and validate every row of a manifest."""
    manifest = read_manifest(uri, config.defaults, input_root=input_root)
    logger = get_run_logger()
    logger.info("%d rows: %d valid, %d invalid", manifest.num_rows, len(manifest.rows), len(manifest.invalid))
    for row in manifest.invalid:
        logger.warning("row %d (%s) is set aside: %s", row.row_number, row.scenario_id or "no id", row.message)
    return manifest


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), Transient)


@task(
    name="resolve-versions",
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def resolve_versions(run: Run) -> dict[str, str]:
    """Pin every model file that the manifest needs by its SHA-256.

    Adapters that the configuration does not have, and model files that it gives as `registry:...`, come from the
    registry, as the versions that this run began with.

    Returns:
        Why a scenario cannot run, by scenario id; all others have their versions in `run`.
    """
    logger = get_run_logger()
    cache = run.home / "hashes"
    registry = RunRegistry.of(run)
    problems: dict[Variant | str, str] = {}
    for variant in {Variant.of(scenario): None for scenario in run.manifest.rows}:
        try:
            model = resolve_model(variant, run.config, hash_cache=cache, registered=registry)
        except (BadModel, BadRequest) as error:
            problems[variant] = str(error)
        else:
            run.models[variant] = model
            logger.info("%s: base %s sha256 %.12s", variant, model.base.version or model.base.path, model.base.sha256)
    for name in {use.name: None for scenario in run.manifest.rows for use in scenario.adapters}:
        try:
            adapter = _resolve_adapter(run, name, cache, registry)
        except (BadModel, BadRequest) as error:
            problems[name] = str(error)
        else:
            run.adapters[name] = adapter
            logger.info("adapter %s: %s sha256 %.12s", name, adapter.version or "configured", adapter.file.sha256)
    return {
        scenario.scenario_id: problem
        for scenario in run.manifest.rows
        if (problem := _problem_of(scenario, problems) or _wrong_base(run, scenario))
    }


def _resolve_adapter(run: Run, name: str, cache: Path, registry: RunRegistry | None) -> AdapterVersion:
    """The adapter of the configuration, or else of the registry."""
    if name in run.config.adapters:
        return resolve_adapter(name, run.config.adapters[name], hash_cache=cache)
    if registry:
        return registered_adapter(name, registered=registry)
    raise BadRequest(
        "adapters",
        got=repr(name),
        expected=f"one of the configuration's adapters ({', '.join(run.config.adapters) or 'none'})",
        fix="Add it there, or name a registry for it to be looked up in",
    )


def _problem_of(scenario: Scenario, problems: dict[Variant | str, str]) -> str | None:
    keys: list[Variant | str] = [Variant.of(scenario), *(use.name for use in scenario.adapters)]
    return next((problems[key] for key in keys if key in problems), None)


def _wrong_base(run: Run, scenario: Scenario) -> str | None:
    try:
        for adapter in run.adapters_of(scenario):
            require_parent(adapter, run.models[Variant.of(scenario)])
    except AdapterMismatch as error:
        return str(error)
    return None


def plan_shards(run: Run, jobs: Sequence[Job]) -> list[Shard]:
    """Split jobs by what must be loaded for them, and by how many GPUs render one of them."""
    by_variant: dict[Variant, list[Job]] = {}
    for job in jobs:
        by_variant.setdefault(Variant.of(job.scenario), []).append(job)
    return [shard for variant, members in by_variant.items() for shard in _place(run, variant, members)]


def _place(run: Run, variant: Variant, jobs: Sequence[Job]) -> list[Shard]:
    """The jobs of one variant, stage after stage of its placement."""
    placement = run.plan.of(variant).placement_of(len(jobs))
    if placement.problem is not None:
        # The plan is an estimate; what does not fit will say so itself, and costs no other scenario.
        get_run_logger().warning("%s %s; trying it with every saving", variant, placement.problem)
        placement = run.plan.of(variant).attempt(len(jobs))
    devices = [device for index, device in enumerate(run.devices) if index not in placement.left_out]
    left = sorted(jobs, key=lambda job: [use.name for use in job.scenario.adapters])
    shards = []
    for stage in placement.stages:
        now, left = left[: stage.num_scenarios], left[stage.num_scenarios :]
        size = stage.group_size
        groups = tuple(tuple(devices[n * size : (n + 1) * size]) for n in range(stage.num_groups))
        shards.append(Shard(variant=variant, jobs=tuple(now), savings=placement.savings, groups=groups))
    return shards


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
        savings=shard.savings,
        num_devices=len(shard.groups[0]),
    )


def rows_set_aside(run: Run) -> list[dict[str, Any]]:
    """Results rows of the manifest rows that are invalid."""
    return [
        invalid_row(row.row_number, row.scenario_id, row.message, row.raw, run_id=run.run_id)
        for row in run.manifest.invalid
    ]
