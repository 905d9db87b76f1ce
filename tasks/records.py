"""What is kept of each scenario: one JSON record, and one row in the run's results table.

The record is the commit point of a scenario: it is written after the video, so its existence means that the rest is
complete. The results table is written last of all and has exactly one row for each row of the manifest.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from cosmos_core.hashing import canonical_json
from tasks.audit import AuditMark
from tasks.quarantine import quarantine_name
from tasks.release import ReleaseToken
from tasks.scenario import Scenario
from tasks.stage_runs import StageRun
from tasks.storage import Store
from tasks.verdicts import Decision
from tasks.versions import AdapterVersion, ModelVersion

__all__ = [
    "RESULTS_SCHEMA",
    "CodeVersion",
    "Output",
    "Prompts",
    "Record",
    "Review",
    "Status",
    "quarantine_name",
    "read_record",
    "read_results",
    "record_name",
    "results_parquet",
    "thumbnail_name",
    "video_name",
    "write_record",
]

RECORD_VERSION = 2
RESULTS_NAME = "results.parquet"


class Status(StrEnum):
    """How a scenario ended."""

    PUBLISHED = "published"
    BLOCKED = "blocked"
    """The policy refused it: nothing was generated, or nothing may be shown."""
    QUARANTINED = "quarantined"
    """Generated, but kept apart until a person has looked at it."""
    INVALID = "invalid"
    """The row is wrong; nothing was tried."""
    FAILED = "failed"
    """Tried, and given up after the retries."""

    @property
    def is_final(self) -> bool:
        """Whether running the same job again would give the same outcome."""
        return self in (Status.PUBLISHED, Status.BLOCKED, Status.QUARANTINED)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompts(_Part):
    """Every text that reached a model, before and after refinement."""

    original: str
    refined: str
    negative: str
    refiner: str
    refiner_sha256: str | None
    refiner_requested: str | None = None
    """What the run asked for; another `refiner` had to step in where the two differ, and `notes` says why."""
    refiner_model: str | None = None
    """The model that wrote `refined`, where one did."""
    notes: tuple[str, ...] = ()


class Output(_Part):
    """The video file."""

    video: str
    """Name below the output root."""
    sha256: str
    num_bytes: int
    width: int
    height: int
    num_frames: int
    fps: int


class Review(_Part):
    """What a person decided on a held clip."""

    verdict: Literal["approved", "rejected"]
    by: str
    reason: str
    at: datetime
    video_sha256: str
    """The file that was looked at."""
    policy_sha256: str


class CodeVersion(_Part):
    """The code that ran."""

    package: str
    core: str
    commit: str | None = None
    dirty: bool | None = None


class Record(_Part):
    """Everything about how one scenario came to its end."""

    record_version: int = RECORD_VERSION
    scenario_id: str
    status: Status
    reason: str
    job_id: str | None
    """Hash of all that determines the published pixels; equal ids mean that nothing needs to be done again."""
    identity: dict[str, Any] = {}
    """What `job_id` is the hash of."""
    scenario: Scenario
    config: dict[str, Any] = {}
    """The run configuration, complete."""
    input_sha256: str | None = None
    redacted_input_sha256: str | None = None
    """Of the frames that were generated from instead of the input, because something in it had to be covered."""
    prompts: Prompts | None = None
    model: ModelVersion | None = None
    adapters: tuple[AdapterVersion, ...] = ()
    generated_by: dict[str, str | None] = {}
    """Lane, flow run and task run that generated the frames; of an earlier run where this one only went on."""
    generation: dict[str, Any] = {}
    """What the worker said of this clip: sizes, prompt tokens, whether the prompt was cut."""
    proof: dict[str, Any] = {}
    """What the worker found about the loaded model: parameter counts, effect of each adapter."""
    decision: Decision | None = None
    audit: AuditMark | None = None
    """Where the decision stands in the audit log of the output."""
    release: ReleaseToken | None = None
    """What entitled the clip to be published."""
    evidence: tuple[str, ...] = ()
    """Pictures of a held clip, as names below the output root."""
    review: Review | None = None
    """The last word of a person on a held clip."""
    output: Output | None = None
    timings_s: dict[str, float] = {}
    device_s: float | None = None
    """Time of all GPUs, or of the CPU slot, that rendered it."""
    planned_device_s: float | None = None
    """The same as planned before; None if it was unknown."""
    stages: dict[str, StageRun] = {}
    """The Prefect task run of each stage, by the stage's name."""
    code: CodeVersion
    packages: dict[str, str] = {}
    """Versions of the libraries that were installed, and of ffmpeg."""
    environment: dict[str, str] = {}
    """Of the worker that generated: interpreter, torch, device, driver, GPU."""
    manifest_uri: str
    manifest_sha256: str
    run_id: str
    """The flow run."""
    lineage: str | None = None
    """The lineage dataset that has a row of this."""
    finished_at: datetime


def record_name(scenario_id: str) -> str:
    return f"records/{scenario_id}.json"


def video_name(scenario_id: str) -> str:
    return f"videos/{scenario_id}.mp4"


def thumbnail_name(scenario_id: str) -> str:
    return f"thumbnails/{scenario_id}.jpg"


def write_record(store: Store, record: Record) -> None:
    """Publish a record under `records/<scenario_id>.json`."""
    text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False)
    store.publish_bytes(text.encode(), record_name(record.scenario_id), content_type="application/json")


def read_record(store: Store, scenario_id: str) -> Record | None:
    """The record of a scenario, or None if there is none that this version can read."""
    data = store.read_bytes(record_name(scenario_id))
    if data is None:
        return None
    try:
        return Record.model_validate_json(data)
    except ValueError:
        # Written by another version, or by something else: then the scenario counts as not done.
        return None


RESULTS_SCHEMA = pa.schema(
    [
        pa.field("row_number", pa.int64(), nullable=False, metadata={"description": "0-based row of the manifest"}),
        pa.field("scenario_id", pa.string(), metadata={"description": "null where the row has none that is legal"}),
        pa.field("status", pa.string(), nullable=False, metadata={"description": " | ".join(Status)}),
        pa.field("reason", pa.string(), nullable=False, metadata={"description": "empty for a plain publication"}),
        pa.field("output_name", pa.string(), metadata={"description": "name that the manifest asked for"}),
        pa.field("video_uri", pa.string()),
        pa.field("video_sha256", pa.string()),
        pa.field("record_uri", pa.string()),
        pa.field("input", pa.string()),
        pa.field("input_sha256", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("refined_prompt", pa.string()),
        pa.field("negative_prompt", pa.string()),
        pa.field("model", pa.string()),
        pa.field("resolution", pa.string()),
        pa.field("fps", pa.int32()),
        pa.field("aspect_ratio", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("guidance", pa.float64()),
        pa.field("num_steps", pa.int32()),
        pa.field("num_conditional_frames", pa.int32()),
        pa.field("num_chunks", pa.int32()),
        pa.field("adapters", pa.list_(pa.struct([("name", pa.string()), ("strength", pa.float64())]))),
        pa.field("labels", pa.map_(pa.string(), pa.string())),
        pa.field("job_id", pa.string()),
        pa.field("base_sha256", pa.string()),
        pa.field("adapter_sha256", pa.list_(pa.string())),
        pa.field("decision", pa.string(), metadata={"description": "JSON of the guardrail decision"}),
        pa.field(
            "num_redacted",
            pa.map_(pa.string(), pa.int32()),
            metadata={"description": "faces and plates covered, by stage: `input face`, `video plate`"},
        ),
        pa.field("evidence_uris", pa.list_(pa.string()), metadata={"description": "pictures of a held clip"}),
        pa.field("review", pa.string(), metadata={"description": "JSON of a person's review of a held clip"}),
        pa.field("reused", pa.bool_(), nullable=False, metadata={"description": "finished by an earlier run"}),
        pa.field("seconds", pa.float64(), metadata={"description": "time of the stages that made it"}),
        pa.field("device_seconds", pa.float64(), metadata={"description": "time of the GPUs or CPU that rendered it"}),
        pa.field("planned_device_seconds", pa.float64(), metadata={"description": "the same as planned, if known"}),
        pa.field("finished_at", pa.timestamp("us", tz="UTC")),
        pa.field("run_id", pa.string(), nullable=False),
    ],
    metadata={"crossroads.results.version": "1"},
)


def results_row(record: Record, store: Store, *, reused: bool, run_id: str, recorded: bool = True) -> dict[str, Any]:
    """The results row of a scenario that has a record."""
    scenario, output = record.scenario, record.output
    published = output is not None and record.status is Status.PUBLISHED
    return {
        "row_number": scenario.row_number,
        "scenario_id": scenario.scenario_id,
        "status": str(record.status),
        "reason": record.reason,
        "output_name": scenario.output_name,
        "video_uri": store.uri_of(output.video) if output and published else None,
        "video_sha256": output.sha256 if output and published else None,
        "record_uri": store.uri_of(record_name(record.scenario_id)) if recorded else None,
        "input": scenario.input,
        "input_sha256": record.input_sha256,
        "prompt": scenario.prompt,
        "refined_prompt": record.prompts.refined if record.prompts else None,
        "negative_prompt": scenario.negative_prompt,
        "model": scenario.model,
        "resolution": scenario.resolution,
        "fps": scenario.fps,
        "aspect_ratio": scenario.aspect_ratio,
        "seed": scenario.seed,
        "guidance": scenario.guidance,
        "num_steps": scenario.num_steps,
        "num_conditional_frames": scenario.num_conditional_frames,
        "num_chunks": scenario.num_chunks,
        "adapters": [adapter.model_dump() for adapter in scenario.adapters],
        "labels": list(scenario.labels.items()),
        "job_id": record.job_id,
        "base_sha256": record.model.base.sha256 if record.model else None,
        "adapter_sha256": [adapter.file.sha256 for adapter in record.adapters],
        "decision": canonical_json(record.decision.model_dump(mode="json")) if record.decision else None,
        "num_redacted": list(_num_redacted(record.decision).items()),
        "evidence_uris": [store.uri_of(name) for name in record.evidence],
        "review": canonical_json(record.review.model_dump(mode="json")) if record.review else None,
        "reused": reused,
        "seconds": sum(record.timings_s.values()) if record.timings_s else None,
        "device_seconds": record.device_s,
        "planned_device_seconds": record.planned_device_s,
        "finished_at": record.finished_at,
        "run_id": run_id,
    }


def _num_redacted(decision: Decision | None) -> dict[str, int]:
    """How many different faces and plates were covered, by stage and kind."""
    counts: Counter[str] = Counter()
    for verdict in decision.verdicts if decision else ():
        tracks = verdict.evidence.get("num_tracks")
        if verdict.check.endswith(".redaction") and isinstance(tracks, dict):
            counts.update({f"{verdict.stage} {kind}": n for kind, n in tracks.items() if isinstance(n, int) and n})
    return dict(counts)


def invalid_row(
    row_number: int, scenario_id: str | None, reason: str, raw: dict[str, Any], *, run_id: str
) -> dict[str, Any]:
    """The results row of a manifest row that was set aside."""
    text = {
        name: raw.get(name) if isinstance(raw.get(name), str) else None for name in ("input", "prompt", "output_name")
    }
    return (
        dict.fromkeys(RESULTS_SCHEMA.names)
        | text
        | {
            "row_number": row_number,
            "scenario_id": scenario_id,
            "status": str(Status.INVALID),
            "reason": reason,
            "reused": False,
            "run_id": run_id,
        }
    )


def results_parquet(rows: list[dict[str, Any]]) -> bytes:
    """The results table, ordered by manifest row, as Parquet."""
    ordered = sorted(rows, key=lambda row: row["row_number"])
    assert len({row["row_number"] for row in ordered}) == len(ordered), "a manifest row has two outcomes"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ordered, schema=RESULTS_SCHEMA), sink)
    return bytes(sink.getvalue())


def read_results(store: Store) -> list[dict[str, Any]] | None:
    """The rows of the results table, or None if the run has not come to its end."""
    data = store.read_bytes(RESULTS_NAME)
    return pq.read_table(pa.BufferReader(data)).to_pylist() if data is not None else None
