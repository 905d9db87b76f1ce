"""How a scenario's end is written down: its record and its row, whatever the end was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cosmos_core.errors import CrossroadsError
from tasks.audit import AuditMark
from tasks.code_version import code_version, package_versions
from tasks.generation import GeneratedClip
from tasks.job import Job
from tasks.quarantine_expiry import is_expired
from tasks.records import Output, Record, Status, read_record, results_row, write_record
from tasks.release import ReleaseToken
from tasks.run import Run
from tasks.scenario import Scenario
from tasks.verdicts import Decision
from tasks.versions import Variant

__all__ = ["finished_row", "give_up", "make_record"]


def make_record(
    run: Run,
    scenario: Scenario,
    status: Status,
    reason: str,
    *,
    job: Job | None = None,
    decision: Decision | None = None,
    audit: AuditMark | None = None,
    output: Output | None = None,
    release: ReleaseToken | None = None,
    evidence: tuple[str, ...] = (),
    clip: GeneratedClip | None = None,
    timings_s: dict[str, float] | None = None,
) -> Record:
    """The record of a scenario with everything that is known about it."""
    return Record(
        scenario_id=scenario.scenario_id,
        status=status,
        reason=reason,
        job_id=job.job_id if job else None,
        identity=run.identity(scenario, input_sha256=job.input.sha256, prompt=job.prompts.refined) if job else {},
        scenario=scenario,
        config=run.config.model_dump(mode="json"),
        input_sha256=job.input.sha256 if job else None,
        redacted_input_sha256=job.redacted_input_sha256 if job else None,
        prompts=job.prompts if job else None,
        model=run.models.get(Variant.of(scenario)),
        adapters=run.adapters_of(scenario) if all(use.name in run.adapters for use in scenario.adapters) else (),
        generated_by={"lane": clip.lane, "flow_run_id": clip.flow_run_id, "task_run_id": clip.task_run_id}
        if clip
        else {},
        generation={k: v for k, v in clip.result.items() if not k.endswith("_s")} if clip else {},
        proof=clip.proof if clip else {},
        decision=decision,
        audit=audit,
        output=output,
        release=release,
        evidence=evidence,
        timings_s=timings_s or {},
        device_s=clip.device_s if clip else None,
        planned_device_s=clip.planned_device_s if clip else None,
        stages=run.stages.of(scenario.scenario_id),
        code=code_version(),
        packages=package_versions(),
        environment=clip.environment if clip else {},
        manifest_uri=run.manifest.uri,
        manifest_sha256=run.manifest.sha256,
        run_id=run.run_id,
        lineage=run.lineage.dataset.uri if status.is_final else None,
        finished_at=datetime.now(UTC),
    )


def finished_row(run: Run, job: Job) -> dict[str, Any] | None:
    """The results row of a job that an earlier run brought to its end, or None if there is work to do."""
    record = read_record(run.store, job.scenario.scenario_id)
    if record is None or record.job_id != job.job_id or not record.status.is_final:
        return None
    if record.status is Status.QUARANTINED and record.output is None:
        # A check gave no answer, so nothing was generated: ask again.
        return None
    output = record.output
    if output is not None and run.store.size(output.video) != output.num_bytes and not is_expired(run.store, record):
        return None
    run.lineage.add_missing(record)
    # What does not touch the pixels (labels, output name, row) follows the manifest of today.
    return results_row(record.model_copy(update={"scenario": job.scenario}), run.store, reused=True, run_id=run.run_id)


def give_up(run: Run, scenario: Scenario, error: BaseException, job: Job | None) -> dict[str, Any]:
    """The results row of a scenario that no retry could save; its record never replaces that of a publication."""
    reason = str(error) if isinstance(error, CrossroadsError) else f"{type(error).__name__}: {error}"
    record = make_record(run, scenario, Status.FAILED, " ".join(reason.split())[:2000], job=job)
    earlier = read_record(run.store, scenario.scenario_id)
    recorded = earlier is None or not earlier.status.is_final
    if recorded:
        write_record(run.store, record)
    return results_row(record, run.store, reused=False, run_id=run.run_id, recorded=recorded)
