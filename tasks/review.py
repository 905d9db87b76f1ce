"""A person's word on held clips: see them, approve them, reject them.

An approval publishes the clip through the step that every clip goes through; a rejection leaves it where it is. Both
stand in the audit log, beside the clip and in its record, with who, when and why. What a policy blocks or locks no
person can approve.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import ReviewRefused
from cosmos_core.hashing import sha256_bytes, sha256_json
from cosmos_core.video_file import read_video
from tasks.audit import AuditEntry, AuditLog
from tasks.lineage_dataset import open_lineage
from tasks.lineage_rows import LineageRows
from tasks.policy import Policy, decide
from tasks.publishing import show_clip
from tasks.quarantine import quarantine_folder
from tasks.quarantine_expiry import is_expired
from tasks.records import Output, Record, Review, Status, read_record, write_record
from tasks.release import issue_release
from tasks.storage import Store
from tasks.thumbnails import filmstrip
from tasks.verdicts import Decision

__all__ = ["HeldClip", "approve", "barred_by", "held_clips", "reject", "require_held", "reviews_of"]


class HeldClip(BaseModel):
    """A clip that a person can look at."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    record: Record
    decision: Decision
    output: Output

    @property
    def scenario_id(self) -> str:
        return self.record.scenario_id


def held_clips(store: Store) -> Iterator[HeldClip]:
    """Every clip in quarantine that has not expired, reviewed or not, in the order of the names."""
    for name in store.list("records"):
        record = read_record(store, name.removeprefix("records/").removesuffix(".json"))
        if record is not None and (held := _held(record)) is not None and not is_expired(store, record):
            yield held


def require_held(store: Store, scenario_id: str) -> HeldClip:
    """The held clip of a scenario.

    Raises:
        ReviewRefused: there is none.
    """
    record = read_record(store, scenario_id)
    if record is None:
        raise ReviewRefused(f"no record of scenario {scenario_id}", got=store.uri, fix="Run `crossroads review list`.")
    if (held := _held(record)) is None:
        state = "published" if record.output else f"{record.status}, without a clip"
        raise ReviewRefused(f"scenario {scenario_id} is not in quarantine", got=state, expected="a held clip")
    if is_expired(store, record):
        raise ReviewRefused(
            f"the held clip of scenario {scenario_id} has expired",
            got=f"{quarantine_folder(scenario_id)}/expired.json",
            fix="Run the scenario again with another seed.",
        )
    return held


def _held(record: Record) -> HeldClip | None:
    if record.status not in (Status.QUARANTINED, Status.BLOCKED) or record.decision is None or record.output is None:
        return None
    return HeldClip(record=record, decision=record.decision, output=record.output)


def barred_by(policy: Policy, decision: Decision) -> tuple[str, ...]:
    """Categories of a decision that no person may approve: blocked ones, and locked ones that hold a clip."""
    flagged = dict.fromkeys(category for verdict in decision.verdicts for category in verdict.categories)
    rules = {name: policy.categories[name] for name in flagged if name in policy.categories}
    found = [
        name
        for name, rule in rules.items()
        if rule.action == "block" or (rule.locked and rule.action not in ("allow", "redact"))
    ]
    return tuple(str(name) for name in found)


def reviews_of(store: Store, scenario_id: str) -> tuple[Review, ...]:
    """What persons decided on the clip that is held now, in order."""
    names = store.list(f"{quarantine_folder(scenario_id)}/reviews")
    return tuple(Review.model_validate_json(store.read_bytes(name) or b"") for name in names)


def approve(store: Store, scenario_id: str, *, by: str, reason: str, policy: Policy, key: bytes) -> Record:
    """Publish a held clip on a person's responsibility.

    Args:
        policy: of the run that held it.
        key: the release key of this installation.

    Raises:
        ReviewRefused: nothing is held, it may not be approved, it was changed, or the policy is another one.
        StorageUnavailable: the store refused or did not answer.
    """
    held = require_held(store, scenario_id)
    _require_approvable(store, held, policy)
    video = _require_unchanged(store, held)
    review = _record_review(store, held, "approved", by=by, reason=reason)
    token = issue_release(
        key,
        held.decision,
        scenario_id=scenario_id,
        job_id=held.record.job_id or "",
        video_sha256=review.video_sha256,
        approved_by=review.by,
    )
    name = show_clip(
        store,
        scenario_id,
        video,
        _thumbnail(video),
        token,
        key,
        job_id=held.record.job_id,
        policy_sha256=policy.sha256,
    )
    return _finish(
        store,
        held,
        status=Status.PUBLISHED,
        reason=f"approved by {review.by}: {review.reason} (held for: {'; '.join(held.decision.findings)})",
        review=review,
        release=token,
        output=held.output.model_copy(update={"video": name}),
    )


def reject(store: Store, scenario_id: str, *, by: str, reason: str) -> Record:
    """Record that a person does not want a held clip to be published. It stays where it is.

    Raises:
        ReviewRefused: nothing is held, or it was changed.
        StorageUnavailable: the store refused or did not answer.
    """
    held = require_held(store, scenario_id)
    _require_unchanged(store, held)
    review = _record_review(store, held, "rejected", by=by, reason=reason)
    why = f"rejected by {review.by}: {review.reason} (held for: {'; '.join(held.decision.findings)})"
    return _finish(store, held, reason=why, review=review)


def _require_approvable(store: Store, held: HeldClip, policy: Policy) -> None:
    decision = held.decision
    if decision.policy_sha256 != policy.sha256:
        raise ReviewRefused(
            f"{held.scenario_id} was held by another policy",
            got=f"{policy.id} v{policy.version} ({policy.sha256[:12]})",
            expected=f"{decision.policy_id} v{decision.policy_version} ({decision.policy_sha256[:12]})",
            fix="Give the configuration of that run with --config, or run the manifest again.",
        )
    # What the record says is not taken on trust: it is decided again, and looked up in the log.
    if decision.action == "block" or decide(policy, decision.verdicts).action == "block":
        raise ReviewRefused(f"{held.scenario_id} is blocked by policy {policy.id}", fix="It cannot be approved.")
    if barred := barred_by(policy, decision):
        raise ReviewRefused(
            f"{held.scenario_id} cannot be approved by anyone",
            got=", ".join(barred),
            expected="no category that the policy blocks or locks",
        )
    wanted = (sha256_json(decision.model_dump(mode="json")), held.output.sha256)
    logged = {
        (row.decision_sha256, row.video_sha256)
        for row in AuditLog(store).rows()
        if row.kind == "decision" and (row.scenario_id, row.job_id) == (held.scenario_id, held.record.job_id)
    }
    if wanted not in logged:
        raise ReviewRefused(
            f"the decision on {held.scenario_id} is not the one in the log",
            fix="Run `crossroads audit verify`, then the scenario again.",
        )


def _require_unchanged(store: Store, held: HeldClip) -> bytes:
    video = store.read_bytes(held.output.video)
    found = None if video is None else sha256_bytes(video)
    if video is None or found != held.output.sha256:
        raise ReviewRefused(
            f"the held clip {held.output.video} was changed",
            got=found or "no file",
            expected=held.output.sha256,
            fix="Run the scenario again.",
        )
    return video


def _record_review(
    store: Store, held: HeldClip, verdict: Literal["approved", "rejected"], *, by: str, reason: str
) -> Review:
    """Write a review beside the clip and into the log, before anything follows from it."""
    by, reason = " ".join(by.split()), " ".join(reason.split())
    if not by or not reason:
        raise ReviewRefused("a review needs a name and a reason", got=f"{by!r}, {reason!r}", fix="Give both.")
    review = Review(
        verdict=verdict,
        by=by,
        reason=reason,
        at=datetime.now(UTC),
        video_sha256=held.output.sha256,
        policy_sha256=held.decision.policy_sha256,
    )
    folder = f"{quarantine_folder(held.scenario_id)}/reviews"
    name = f"{folder}/{len(store.list(folder)) + 1:04d}.json"
    text = json.dumps(review.model_dump(mode="json"), indent=2, ensure_ascii=False)
    if not store.publish_new_bytes(text.encode(), name, content_type="application/json"):
        raise ReviewRefused(f"somebody else has just reviewed {held.scenario_id}", fix="Look again.")
    AuditLog(store).append([_entry(held, review)])
    return review


def _entry(held: HeldClip, review: Review) -> AuditEntry:
    return AuditEntry(
        kind="review",
        run_id=held.record.run_id,
        scenario_id=held.scenario_id,
        job_id=held.record.job_id,
        input_sha256=held.record.input_sha256,
        video_sha256=review.video_sha256,
        policy_id=held.decision.policy_id,
        policy_version=held.decision.policy_version,
        policy_sha256=review.policy_sha256,
        action=review.verdict,
        reasons=held.decision.reasons,
        decision_sha256=sha256_json(held.decision.model_dump(mode="json")),
        actor=review.by,
        note=review.reason,
    )


def _finish(store: Store, held: HeldClip, **changes: object) -> Record:
    record = held.record.model_copy(update={"finished_at": datetime.now(UTC), **changes})
    write_record(store, record)
    if record.lineage is not None:
        rows = LineageRows(open_lineage(record.lineage, create=True), store)
        rows.add(record)
        rows.write()
    return record


def _thumbnail(video: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="crossroads-review-") as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(video)
        return filmstrip(read_video(path))
