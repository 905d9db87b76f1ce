"""Records of a small made-up history: two bases, adapters trained on them, and the runs that used them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cosmos_core.hashing import sha256_bytes
from tasks.audit import AuditMark
from tasks.policy import decide, load_policy
from tasks.records import CodeVersion, Output, Prompts, Record, Status
from tasks.scenario import AdapterUse, Scenario
from tasks.stage_runs import StageRun
from tasks.verdicts import Verdict
from tasks.versions import AdapterVersion, FileVersion, ModelVersion, Variant

POLICY = load_policy("configs/guardrail/its-accident.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)


def digest(name: str) -> str:
    return sha256_bytes(name.encode())


def file(name: str, **facts) -> FileVersion:
    return FileVersion(path=f"checkpoints/{name}.pt", sha256=digest(name), num_bytes=10, **facts)


def made(
    scenario_id="a",
    *,
    run="run-1",
    base="base-1",
    adapters=(),
    parents=None,
    sources=None,
    status=Status.PUBLISHED,
    hour=0,
    **changes,
) -> Record:
    """The record of one video.

    Args:
        adapters: names.
        parents: base by adapter, as the registry knows it.
        sources: training checkpoint by adapter, as the file's manifest says it.
    """
    scenario = Scenario(
        row_number=0,
        scenario_id=scenario_id,
        input="frames/a.png",
        input_uri="/data/frames/a.png",
        prompt="A static traffic camera.",
        labels={"weather": "rain"},
        adapters=[AdapterUse(name=name, strength=0.5) for name in adapters],
    )
    verdict = Verdict(stage="video", check="video.redaction", status="pass", backend="opencv", model="haar", score=0.1)
    versions = tuple(
        AdapterVersion(
            name=name, file=file(name), rank=16, alpha=8.0, reference=f"{name}@production", version=f"{name}:v1",
            parent_sha256=digest(parents[name]) if name in (parents or {}) else None,
        )
        for name in adapters
    )  # fmt: skip
    origins = {name: {"manifest": {"source_sha256": digest(source)}} for name, source in (sources or {}).items()}
    output = Output(
        video=f"videos/{scenario_id}.mp4", sha256=digest(f"{run}/{scenario_id}"), num_bytes=3, width=192, height=112,
        num_frames=61, fps=10,
    )  # fmt: skip
    fields = {
        "scenario_id": scenario_id,
        "status": status,
        "reason": "",
        "job_id": digest(f"job {scenario_id}"),
        "identity": {"lexicon": digest("lexicon")},
        "scenario": scenario,
        "config": {"video_crf": 18, "worker": {"dtype": "auto"}},
        "input_sha256": digest("input"),
        "prompts": Prompts(
            original="x", refined="y", negative="z", refiner="template", refiner_sha256=digest("template")
        ),
        "model": ModelVersion(
            variant=Variant.of(scenario),
            base=file(base, reference="its@stable", version=f"{base}:v1"),
            vae=file("vae"),
            text_encoder=file("t5"),
        ),
        "adapters": versions,
        "proof": {"adapter_origins": origins},
        "decision": decide(POLICY, [verdict]),
        "audit": AuditMark(sequence=7, hash="h"),
        "output": output if status in (Status.PUBLISHED, Status.QUARANTINED) else None,
        "timings_s": {"generate": 2.0},
        "stages": {"generate": StageRun(task_run_id="task-1", attempt=2, started_at=START, seconds=2.5)},
        "code": CodeVersion(package="0.1.0", core="1", commit="c" * 40, dirty=True),
        "packages": {"numpy": "2.0"},
        "environment": {"torch": "2.13", "gpu": "H100", "driver": "570.86"},
        "generated_by": {"lane": "gpu0", "flow_run_id": run, "task_run_id": "task-1"},
        "manifest_uri": "manifest.json",
        "manifest_sha256": digest("manifest"),
        "run_id": run,
        "finished_at": START + timedelta(hours=hour),
    }
    return Record(**(fields | changes))
