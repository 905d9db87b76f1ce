"""The stages of one scenario as Prefect tasks: fetch -> refine -> check input -> generate -> check -> publish.

Each is thin: the policy stands in the decorator, the work in the module that it calls. Retries are for errors that may
pass; what is wrong with a request or a model file stays wrong.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from cosmos_core.errors import OutOfMemory, Transient
from cosmos_core.hashing import sha256_file
from cosmos_core.protocol import AdapterStrength, GenerateVideo, Loading
from cosmos_core.protocol import Progress as StepEvent
from cosmos_core.video_file import probe_input
from tasks.audit import decision_entries
from tasks.checking import CheckedClip, check_clip, check_conditioning, check_prompts
from tasks.generation import GeneratedClip, finished_clip, forget_clip, keep_clip
from tasks.input_files import fetch_input as fetch
from tasks.job import FetchedInput, Job
from tasks.lanes import WorkerPlan
from tasks.outcomes import make_record
from tasks.prompts import InputFile
from tasks.publishing import show_clip
from tasks.quarantine import hold_clip
from tasks.records import (
    Output,
    Prompts,
    Status,
    record_name,
    results_row,
    video_name,
    write_record,
)
from tasks.release import issue_release, release_key
from tasks.run import Run
from tasks.scenario import Scenario
from tasks.stage_runs import staged
from tasks.verdicts import Decision

__all__ = ["check_input", "check_video", "fetch_input", "generate_video", "publish", "refine_prompt"]


def _may_pass(task: Any, task_run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, Transient | OutOfMemory)


_RETRIES: dict[str, Any] = {
    "retry_condition_fn": _may_pass,
    "retry_jitter_factor": 0.5,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(
    name="fetch-input",
    task_run_name="fetch {scenario.scenario_id}",
    retries=3,
    retry_delay_seconds=exponential_backoff(2),
    **_RETRIES,
)
@staged("fetch")
def fetch_input(run: Run, scenario: Scenario) -> FetchedInput:
    """Bring the input to this machine and make sure that it can be decoded."""
    run.progress.stage(scenario.scenario_id, "fetch")
    limit = run.config.input_size_limit_mib << 20
    path = fetch(scenario.input_uri, run.home / "inputs", limit_bytes=limit, hosts=run.config.input_hosts)
    probe_input(path, min_frames=scenario.num_conditional_frames)
    return FetchedInput(path=path, sha256=sha256_file(path))


@task(name="refine-prompt", task_run_name="refine {scenario.scenario_id}", **_RETRIES)
@staged("refine")
def refine_prompt(run: Run, scenario: Scenario, fetched: FetchedInput) -> Job:
    """Settle the texts of a scenario, check them, and name the job that they make."""
    run.progress.stage(scenario.scenario_id, "refine")
    frame = InputFile(path=fetched.path, sha256=fetched.sha256)
    refined = run.refiner.refine(scenario.prompt, scenario.labels, frame)
    decision = check_prompts(run.policy, run.lexicon, scenario, refined.text, run.guards)
    return Job(
        scenario=scenario,
        input=fetched,
        prompts=Prompts(
            original=scenario.prompt,
            refined=refined.text,
            negative=scenario.negative_prompt,
            refiner=refined.refiner,
            refiner_sha256=refined.template_sha256,
            refiner_requested=refined.requested or refined.refiner,
            refiner_model=refined.model,
            notes=refined.notes,
        ),
        decision=decision,
        job_id=run.job_id(scenario, input_sha256=fetched.sha256, refined=refined),
    )


@task(name="check-input", task_run_name="check input {job.scenario.scenario_id}", **_RETRIES)
@staged("check_input")
def check_input(run: Run, job: Job) -> Job:
    """Check and redact what the clip will be generated from; the job comes back decided on that as well."""
    run.progress.stage(job.scenario.scenario_id, "check input")
    checked = check_conditioning(
        job.input.path,
        run.work_folder(job),
        num_frames=job.scenario.num_conditional_frames,
        policy=run.policy,
        guards=run.guards,
        text_decision=job.decision,
    )
    path = checked.redacted_path
    redacted = {"redacted_input": path, "redacted_input_sha256": sha256_file(path) if path else None}
    return job.model_copy(update={"decision": checked.decision, **redacted})


@task(
    name="generate-video",
    task_run_name="generate {job.scenario.scenario_id}",
    retries=2,
    retry_delay_seconds=exponential_backoff(2),
    **_RETRIES,
)
@staged("generate")
def generate_video(run: Run, job: Job, plan: WorkerPlan) -> GeneratedClip:
    """Generate the frames on the next free lane, unless an earlier run already did."""
    scenario, logger = job.scenario, get_run_logger()
    folder = run.work_folder(job)
    if (clip := finished_clip(folder)) is not None:
        logger.info("%s: frames of an interrupted run are complete, going on from them", scenario.scenario_id)
        return clip

    def on_event(event: StepEvent | Loading) -> None:
        if isinstance(event, Loading):
            run.progress.stage(scenario.scenario_id, "generate", f"loading {event.part}")
        else:
            run.progress.step(scenario.scenario_id, event.stage, event.step, event.num_steps)

    assert run.lanes is not None, "there are lanes while something is generated"
    with run.lanes.lease(plan) as lane:
        run.progress.stage(scenario.scenario_id, "generate", "preparing the worker")
        lane.prepare(plan, on_event)
        logger.info("%s: generating on lane %s", scenario.scenario_id, lane.name)
        folder.mkdir(parents=True, exist_ok=True)
        frames_path = folder / "frames.npy"
        result = lane.generate(_request(job, frames_path), on_event)
        clip = GeneratedClip(
            frames_path=frames_path,
            result=result,
            proof=lane.proof,
            environment=lane.environment,
            lane=lane.name,
            num_devices=plan.num_devices,
            planned_device_s=run.planned_device_s(scenario, plan.num_devices),
            flow_run_id=run.run_id,
            task_run_id=run.stages.of(scenario.scenario_id)["generate"].task_run_id,
        )
    keep_clip(clip, folder)
    return clip


def _request(job: Job, frames_path: Path) -> GenerateVideo:
    scenario = job.scenario
    return GenerateVideo(
        request_id=job.job_id,
        input_path=str(job.redacted_input or job.input.path),
        prompt=job.prompts.refined,
        negative_prompt=scenario.negative_prompt,
        seed=scenario.seed,
        guidance=scenario.guidance,
        num_steps=scenario.num_steps,
        num_conditional_frames=scenario.num_conditional_frames,
        num_chunks=scenario.num_chunks,
        resolution=scenario.resolution,
        fps=scenario.fps,
        aspect_ratio=scenario.aspect_ratio,
        adapters=tuple(AdapterStrength(name=use.name, strength=use.strength) for use in scenario.adapters),
        frames_path=str(frames_path),
    )


@task(name="check-video", task_run_name="check {job.scenario.scenario_id}", **_RETRIES)
@staged("check")
def check_video(run: Run, job: Job, clip: GeneratedClip) -> CheckedClip:
    """Redact and check the frames, decide, encode what may be seen, and release what the decision lets pass."""
    run.progress.stage(job.scenario.scenario_id, "check")
    checked = check_clip(
        clip.frames_path,
        run.work_folder(job) / "video.mp4",
        policy=run.policy,
        guards=run.guards,
        earlier=job.decision,
        fps=job.scenario.fps,
        crf=run.config.video_crf,
    )
    if not checked.decision.publishes:
        return checked
    release = issue_release(
        release_key(run.home),
        checked.decision,
        scenario_id=job.scenario.scenario_id,
        job_id=job.job_id,
        video_sha256=checked.facts.sha256,
    )
    return checked.model_copy(update={"release": release})


@task(
    name="publish",
    task_run_name="publish {job.scenario.scenario_id}",
    retries=4,
    retry_delay_seconds=exponential_backoff(2),
    **_RETRIES,
)
@staged("publish")
def publish(
    run: Run, job: Job, clip: GeneratedClip | None = None, checked: CheckedClip | None = None
) -> dict[str, Any]:
    """Upload video and thumbnail, then the record that commits them; returns the results row."""
    started = time.monotonic()
    scenario_id = job.scenario.scenario_id
    run.progress.stage(scenario_id, "publish")
    decision = checked.decision if checked else job.decision
    status = _status(decision)
    # Logged before anything is shown; a retry of this task finds that it was.
    entries = decision_entries(
        decision,
        run_id=run.run_id,
        scenario_id=scenario_id,
        job_id=job.job_id,
        input_sha256=job.input.sha256,
        video_sha256=checked.facts.sha256 if checked else None,
    )
    mark = run.audit.append(entries, once=f"{scenario_id}/{job.job_id}")
    # The old record goes first: while a video is being replaced nothing may vouch for it.
    run.store.remove(record_name(scenario_id))
    assert checked or status is not Status.PUBLISHED, "only a clip that was checked can be published"
    output, evidence = None, tuple[str, ...]()
    if status is not Status.PUBLISHED:
        run.store.remove(video_name(scenario_id))
    if checked and status is Status.PUBLISHED:
        name = show_clip(
            run.store,
            scenario_id,
            checked.video_path.read_bytes(),
            checked.thumbnail_path.read_bytes(),
            checked.release,
            release_key(run.home),
            job_id=job.job_id,
            policy_sha256=run.policy.sha256,
        )
        output = Output(video=name, **checked.facts.model_dump())
    elif checked:
        held = hold_clip(
            run.store,
            scenario_id,
            checked.video_path,
            decision,
            job_id=job.job_id,
            video_sha256=checked.facts.sha256,
        )
        output, evidence = Output(video=held.video, **checked.facts.model_dump()), held.picture_names
    timings = (clip.timings_s if clip else {}) | ({"check": checked.seconds} if checked else {})
    record = make_record(
        run,
        job.scenario,
        status,
        _reason(decision),
        job=job,
        decision=decision,
        audit=mark,
        output=output,
        release=checked.release if checked else None,
        evidence=evidence,
        clip=clip,
        timings_s=timings | {"publish": time.monotonic() - started},
    )
    write_record(run.store, record)
    run.lineage.add(record)
    forget_clip(run.work_folder(job))
    return results_row(record, run.store, reused=False, run_id=run.run_id)


def _status(decision: Decision) -> Status:
    if decision.action == "block":
        return Status.BLOCKED
    if decision.action in ("quarantine", "review"):
        return Status.QUARANTINED
    return Status.PUBLISHED


def _reason(decision: Decision) -> str:
    if not decision.publishes or not decision.enforced:
        return "; ".join(decision.findings)
    missing = dict.fromkeys(name.split("/", 1)[1] for name in decision.missing_checks)
    return f"not checked: {', '.join(missing)}" if missing else ""
