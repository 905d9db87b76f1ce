"""One row of the lineage dataset: all that made one video, or why there is none.

`versions` says everything about each version that had a part in it, `uses` only their hashes: the one column that has
to be read to find the videos of a version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cosmos_core.hashing import canonical_json
from tasks.records import Record, record_name
from tasks.storage import Store
from tasks.verdicts import Verdict
from tasks.versions import AdapterVersion, FileVersion

__all__ = ["LINEAGE_SCHEMA", "SCHEMA_VERSION", "VERSION_TYPE", "lineage_row"]

SCHEMA_VERSION = 1
"""Raised when a column is removed or changes its meaning; a reader refuses files of a later one."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

VERSION_TYPE = pa.struct(
    [
        ("role", pa.string()),  # base | vae | text_encoder | adapter | refiner | guardrail
        ("name", pa.string()),
        ("version", pa.string()),  # exact version in the registry, or what a model says of itself
        ("reference", pa.string()),  # how it was asked for
        ("sha256", pa.string()),
        ("parent_sha256", pa.string()),  # what it was trained on
        ("source_sha256", pa.string()),  # training checkpoint that an adapter was extracted from
        ("path", pa.string()),
        ("num_bytes", pa.int64()),
        ("rank", pa.int32()),
        ("alpha", pa.float64()),
        ("strength", pa.float64()),
    ]
)
_STAGE_TYPE = pa.struct(
    [
        ("stage", pa.string()),
        ("task_run_id", pa.string()),
        ("attempt", pa.int32()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("seconds", pa.float64()),
    ]
)
_VERDICT_TYPE = pa.struct(
    [
        ("stage", pa.string()),
        ("check", pa.string()),
        ("status", pa.string()),
        ("category", pa.string()),
        ("score", pa.float64()),
        ("backend", pa.string()),
        ("model", pa.string()),
        ("revision", pa.string()),
    ]
)
_TEXTS = pa.map_(pa.string(), pa.string())

LINEAGE_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False, metadata={"description": "Prefect flow run; the partition"}),
        pa.field("scenario_id", pa.string(), nullable=False),
        pa.field("job_id", pa.string(), metadata={"description": "hash of all that determines the pixels"}),
        pa.field("status", pa.string(), nullable=False, metadata={"description": "published | quarantined | blocked"}),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("video_uri", pa.string(), metadata={"description": "null where nothing was generated"}),
        pa.field("record_uri", pa.string(), nullable=False),
        pa.field("output_sha256", pa.string()),
        pa.field("output_bytes", pa.int64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("num_frames", pa.int32()),
        pa.field("manifest_uri", pa.string(), nullable=False),
        pa.field("manifest_sha256", pa.string(), nullable=False),
        pa.field("row_number", pa.int64(), nullable=False),
        pa.field("input", pa.string(), nullable=False),
        pa.field("input_uri", pa.string(), nullable=False),
        pa.field("input_sha256", pa.string()),
        pa.field("redacted_input_sha256", pa.string()),
        pa.field("prompt", pa.string(), nullable=False),
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
        pa.field("labels", _TEXTS),
        pa.field("config", pa.string(), metadata={"description": "JSON of the whole run configuration"}),
        pa.field("versions", pa.list_(VERSION_TYPE)),
        pa.field("uses", pa.list_(pa.string()), metadata={"description": "the hashes in `versions`"}),
        pa.field("policy_id", pa.string()),
        pa.field("policy_version", pa.int32()),
        pa.field("action", pa.string(), metadata={"description": "what the policy decided"}),
        pa.field("verdicts", pa.list_(_VERDICT_TYPE)),
        pa.field("reviewed_by", pa.string()),
        pa.field("review", pa.string(), metadata={"description": "approved | rejected, where a person decided"}),
        pa.field("audit_sequence", pa.int64()),
        pa.field("code_package", pa.string()),
        pa.field("code_core", pa.string()),
        pa.field("code_commit", pa.string()),
        pa.field("code_dirty", pa.bool_()),
        pa.field("packages", _TEXTS),
        pa.field("environment", _TEXTS, metadata={"description": "of the worker: python, torch, device, driver, GPU"}),
        pa.field("generated_by", _TEXTS, metadata={"description": "lane, flow run and task run of the frames"}),
        pa.field("stages", pa.list_(_STAGE_TYPE)),
        pa.field("timings_s", pa.map_(pa.string(), pa.float64())),
    ],
    metadata={"crossroads.lineage.version": str(SCHEMA_VERSION)},
)


def lineage_row(record: Record, store: Store) -> dict[str, Any]:
    """The row of a record. Without a video it has no versions: it says that the address shows nothing any more.

    Args:
        store: the output that the record's names are below.
    """
    scenario, output, decision = record.scenario, record.output, record.decision
    versions = list(_versions(record)) if output else []
    return {
        "run_id": record.run_id,
        "scenario_id": record.scenario_id,
        "job_id": record.job_id,
        "status": str(record.status),
        "finished_at": record.finished_at,
        "video_uri": store.uri_of(output.video) if output else None,
        "record_uri": store.uri_of(record_name(record.scenario_id)),
        "output_sha256": output.sha256 if output else None,
        "output_bytes": output.num_bytes if output else None,
        "width": output.width if output else None,
        "height": output.height if output else None,
        "num_frames": output.num_frames if output else None,
        "manifest_uri": record.manifest_uri,
        "manifest_sha256": record.manifest_sha256,
        **scenario.model_dump(
            include={
                "row_number", "input", "input_uri", "prompt", "negative_prompt", "model", "resolution", "fps",
                "aspect_ratio", "seed", "guidance", "num_steps", "num_conditional_frames", "num_chunks",
            }
        ),
        "input_sha256": record.input_sha256,
        "redacted_input_sha256": record.redacted_input_sha256,
        "refined_prompt": record.prompts.refined if record.prompts else None,
        "labels": list(scenario.labels.items()),
        "config": canonical_json(record.config),
        "versions": versions,
        "uses": list(dict.fromkeys(version["sha256"] for version in versions if version["sha256"])),
        "policy_id": decision.policy_id if decision else None,
        "policy_version": decision.policy_version if decision else None,
        "action": decision.action if decision else None,
        "verdicts": [_verdict(verdict) for verdict in decision.verdicts] if decision else [],
        "reviewed_by": record.review.by if record.review else None,
        "review": record.review.verdict if record.review else None,
        "audit_sequence": record.audit.sequence if record.audit else None,
        **{f"code_{name}": value for name, value in record.code.model_dump().items()},
        "packages": list(record.packages.items()),
        "environment": list(record.environment.items()),
        "generated_by": list(record.generated_by.items()),
        "stages": [{"stage": stage, **run.model_dump()} for stage, run in record.stages.items()],
        "timings_s": list(record.timings_s.items()),
    }  # fmt: skip


def _versions(record: Record) -> Iterator[dict[str, Any]]:
    """Every version that had a part in a video, as `VERSION_TYPE`."""
    if record.model is not None:
        for role in ("base", "vae", "text_encoder"):
            file: FileVersion = getattr(record.model, role)
            yield _version(role, str(record.model.variant), **_file(file))
    for adapter, use in zip(record.adapters, record.scenario.adapters, strict=True):
        yield _version("adapter", adapter.name, **_adapter(adapter, record.proof), strength=use.strength)
    if (prompts := record.prompts) is not None:
        yield _version("refiner", prompts.refiner, version=prompts.refiner_model, sha256=prompts.refiner_sha256)
    if (decision := record.decision) is not None:
        yield _version("guardrail", f"policy {decision.policy_id}", version=str(decision.policy_version),
                       sha256=decision.policy_sha256)  # fmt: skip
        if lexicon := record.identity.get("lexicon"):
            yield _version("guardrail", "lexicon", sha256=lexicon)
        models = {(verdict.backend, verdict.model, verdict.revision) for verdict in decision.verdicts if verdict.model}
        for backend, model, revision in sorted(models, key=str):
            is_hash = bool(revision and _SHA256.fullmatch(revision))
            yield _version("guardrail", f"{backend} {model}", version=None if is_hash else revision,
                           sha256=revision if is_hash else None)  # fmt: skip


def _version(role: str, name: str, **facts: Any) -> dict[str, Any]:
    fields = [field.name for field in VERSION_TYPE]
    assert set(facts) <= set(fields), "an unknown field would be dropped in silence"
    return dict.fromkeys(fields) | {"role": role, "name": name} | facts


def _file(file: FileVersion) -> dict[str, Any]:
    return file.model_dump(include={"version", "reference", "sha256", "parent_sha256", "path", "num_bytes"})


def _adapter(adapter: AdapterVersion, proof: dict[str, Any]) -> dict[str, Any]:
    """Facts of an adapter; what the configuration and the registry leave open is in the file's own manifest."""
    manifest = (proof.get("adapter_origins", {}).get(adapter.name) or {}).get("manifest") or {}
    trained_on = manifest.get("base_sha256") if manifest.get("base_sha256_of") == "file" else None
    return _file(adapter.file) | {
        "version": adapter.version,
        "reference": adapter.reference,
        "parent_sha256": adapter.parent_sha256 or trained_on,
        "source_sha256": manifest.get("source_sha256"),
        "rank": adapter.rank if adapter.rank is not None else manifest.get("rank"),
        "alpha": adapter.alpha if adapter.alpha is not None else manifest.get("alpha"),
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {name: getattr(verdict, name) for name in [field.name for field in _VERDICT_TYPE]}
