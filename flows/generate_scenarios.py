"""The flow: a manifest goes in, checked and traceable videos come out."""

from __future__ import annotations

import concurrent.futures
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

from prefect import Task, flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.exceptions import UpstreamTaskError
from prefect.futures import PrefectConcurrentFuture
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from cosmos_core.errors import BadRequest
from flows.lineage_hooks import tell_aborted, tell_complete, tell_failed, tell_started
from tasks.artifacts import ProgressArtifact, publish_results_artifacts
from tasks.config import load_config
from tasks.device_time import device_time
from tasks.gpus import machine_gpus
from tasks.guards import Guards
from tasks.job import Job
from tasks.lanes import LanePool
from tasks.outcomes import finished_row, give_up
from tasks.policy import may_generate
from tasks.preparation import Shard, load_manifest, plan_shards, resolve_versions, rows_set_aside, worker_plan
from tasks.progress import Progress, current_listeners
from tasks.records import RESULTS_NAME, Status, invalid_row
from tasks.results import publish_results, with_reviews
from tasks.run import Run, home_folder
from tasks.run_plan import plan_run
from tasks.scenario import Scenario
from tasks.stages import check_input, check_video, fetch_input, generate_video, publish, refine_prompt
from tasks.storage import open_store

__all__ = ["generate_scenarios"]

Row = dict[str, Any]
Future = PrefectConcurrentFuture[Any]

_THREADS = 8
"""Fetching, checking and publishing overlap with generation; more threads than this gain nothing on one machine."""


def _run_name() -> str:
    return PurePosixPath(flow_run.parameters["manifest"]).name


@flow(
    name="generate-scenarios",
    flow_run_name=_run_name,
    task_runner=ThreadPoolTaskRunner(max_workers=_THREADS),  # type: ignore[arg-type]
    persist_result=False,
    on_running=[tell_started],
    on_completion=[tell_complete],
    on_failure=[tell_failed],
    on_crashed=[tell_failed],
    on_cancellation=[tell_aborted],
)
def generate_scenarios(manifest: str, output: str, config: str | None = None, input_root: str | None = None) -> State:
    """Generate, check and publish every scenario of a manifest.

    Args:
        manifest: table of scenarios: Parquet, JSONL, CSV or the JSON batch form; a path or s3:// address.
        output: folder or s3:// prefix for videos, records, results.parquet and index.html.
        config: run configuration: a YAML file, or the name of a shipped one.
        input_root: folder that relative inputs are looked up in, instead of the manifest's own.
    """
    settings = load_config(Path(config) if config else None)
    store = open_store(output)
    loaded = load_manifest(manifest, settings, input_root=input_root)
    progress = Progress(listeners=current_listeners())
    plan = plan_run(loaded, settings, machine_gpus(settings.worker))
    for line in plan.describe():
        get_run_logger().info("plan: %s", line)
    logs = home_folder() / "logs"
    with Guards(settings.guards, log_folder=logs, on_cpu="guardrail" in plan.savings) as guards:
        run = Run(
            run_id=str(flow_run.id),
            config=settings,
            manifest=loaded,
            store=store,
            plan=plan,
            guards=guards,
            progress=progress,
            home=home_folder(),
        )
        rows = rows_set_aside(run) + _run_scenarios(run)
    return _report(run, rows)


def _run_scenarios(run: Run) -> list[Row]:
    """One row for each valid scenario, whatever happened to it."""
    bar = ProgressArtifact(run.progress)
    run.progress.expect([scenario.scenario_id for scenario in run.manifest.rows])
    run.progress.say("resolving versions")
    problems = resolve_versions(run)
    rows = {
        scenario.scenario_id: _set_aside(run, scenario, problems[scenario.scenario_id])
        for scenario in run.manifest.rows
        if scenario.scenario_id in problems
    }
    try:
        todo = [scenario for scenario in run.manifest.rows if scenario.scenario_id not in rows]
        jobs = _refine_all(run, todo, rows, bar)
    finally:
        run.refiner.close()  # its memory must be free before a worker loads the model
    jobs = _check_inputs(run, jobs, rows, bar)
    for shard in plan_shards(run, jobs):
        run.progress.say(f"generating {len(shard.jobs)} videos with {shard.variant}")
        with LanePool(run.config.worker, run.home, groups=shard.groups) as run.lanes:
            _collect(run, _generate(run, shard), rows, bar)
    run.progress.say("writing the results")
    bar.update(force=True)
    return list(rows.values())


def _generate(run: Run, shard: Shard) -> dict[str, tuple[Job, list[Future]]]:
    """The stages of all jobs of a shard, submitted."""
    plan = worker_plan(run, shard)
    chains: dict[str, tuple[Job, list[Future]]] = {}
    for job in shard.jobs:
        clip = _submit(generate_video, run, job, plan)
        checked = _submit(check_video, run, job, clip)
        chains[job.scenario.scenario_id] = (job, [clip, checked, _submit(publish, run, job, clip, checked)])
    return chains


def _refine_all(run: Run, scenarios: Sequence[Scenario], rows: dict[str, Row], bar: ProgressArtifact) -> list[Job]:
    """Jobs that still have work to do; the rows of all others are added to `rows`."""
    run.progress.say("fetching inputs and refining prompts")
    futures: dict[str, tuple[Scenario, list[Future]]] = {}
    for scenario in scenarios:
        fetched = _submit(fetch_input, run, scenario)
        futures[scenario.scenario_id] = (scenario, [fetched, _submit(refine_prompt, run, scenario, fetched)])
    jobs: list[Job] = []
    for scenario, chain in futures.values():
        _wait(chain, bar)
        error = _first_error(chain)
        if isinstance(error, BadRequest):
            rows[scenario.scenario_id] = _set_aside(run, scenario, str(error))
        elif error is not None:
            rows[scenario.scenario_id] = _finish(run, give_up(run, scenario, error, None))
        else:
            job: Job = chain[-1].result()
            if (row := finished_row(run, job)) is not None:
                rows[scenario.scenario_id] = _finish(run, row)
            else:
                jobs.append(job)
    return jobs


def _check_inputs(run: Run, jobs: Sequence[Job], rows: dict[str, Row], bar: ProgressArtifact) -> list[Job]:
    """Jobs that may be generated; the others end here, with the decision that stopped them."""
    run.progress.say("checking the inputs")
    chains = {
        job.scenario.scenario_id: (job, [_submit(check_input, run, job)])
        for job in jobs
        if may_generate(run.policy, job.decision)
    }
    checked = {job.scenario.scenario_id: job for job in jobs}
    for scenario_id, (job, chain) in chains.items():
        _wait(chain, bar)
        if (error := _first_error(chain)) is None:
            checked[scenario_id] = chain[-1].result()
        else:
            del checked[scenario_id]
            rows[scenario_id] = _finish(run, give_up(run, job.scenario, error, job))
    stopped = {name: job for name, job in checked.items() if not may_generate(run.policy, job.decision)}
    _collect(run, {name: (job, [_submit(publish, run, job)]) for name, job in stopped.items()}, rows, bar)
    return [job for name, job in checked.items() if name not in stopped]


def _submit(task: Task[..., Any], *arguments: Any) -> Future:
    return cast(Future, task.submit(*arguments))


def _collect(
    run: Run, chains: dict[str, tuple[Job, list[Future]]], rows: dict[str, Row], bar: ProgressArtifact
) -> None:
    for scenario_id, (job, chain) in chains.items():
        _wait(chain, bar)
        error = _first_error(chain)
        row = chain[-1].result() if error is None else give_up(run, job.scenario, error, job)
        rows[scenario_id] = _finish(run, row)


def _wait(chain: Sequence[Future], bar: ProgressArtifact) -> None:
    pending = {future.wrapped_future for future in chain}
    while pending:
        pending = concurrent.futures.wait(pending, timeout=1.0).not_done
        bar.update()


def _first_error(chain: Sequence[Future]) -> BaseException | None:
    for future in chain:
        result = future.result(raise_on_failure=False)
        if isinstance(result, BaseException) and not isinstance(result, UpstreamTaskError):
            return result
    return None


def _set_aside(run: Run, scenario: Scenario, reason: str) -> Row:
    raw = scenario.model_dump(mode="json")
    return _finish(run, invalid_row(scenario.row_number, scenario.scenario_id, reason, raw, run_id=run.run_id))


def _finish(run: Run, row: Row) -> Row:
    run.progress.finish(row["scenario_id"], row["status"], row["reason"])
    run.stages.forget(row["scenario_id"])
    return row


def _report(run: Run, rows: list[Row]) -> State:
    """Write lineage and contact sheet and, last of all, the results table; name the run's end after what it holds."""
    # A person may have reviewed a clip while others were still in work.
    rows = with_reviews(run.store, rows)
    counts = Counter(row["status"] for row in rows)
    facts = {
        "manifest": run.manifest.uri,
        "run": run.run_id,
        "rows": str(len(rows)),
        "policy": f"{run.policy.id} v{run.policy.version}",
    }
    if used := device_time(rows):
        facts["device time"] = used
        get_run_logger().info("device time: %s", used)
    run.lineage.finish()
    publish_results_artifacts(rows, output_uri=run.store.uri)
    publish_results(run.store, rows, facts=facts)
    summary = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    get_run_logger().info("%d rows: %s; results in %s", len(rows), summary, run.store.uri_of(RESULTS_NAME))
    undone = counts[Status.FAILED] + counts[Status.INVALID]
    if undone == len(rows):
        return Failed(message=f"Nothing could be done: {summary}")
    return Completed(message=summary, name="CompletedWithFailures" if undone else None)
