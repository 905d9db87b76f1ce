"""Held clips do not stay for ever: after a time the pictures go, and why they were held remains.

What is removed are clips and frames below `quarantine/`. Record, verdicts, reviews and audit log stay, and
`quarantine/<scenario_id>/expired.json` says when and what went. An expired clip counts as finished: no later run makes
it again, and no person can approve it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from tasks.quarantine import quarantine_folder, quarantine_name
from tasks.records import Record, read_record
from tasks.storage import Store

__all__ = ["expire_quarantine", "is_expired"]

_PICTURES = (".mp4", ".jpg")


def expire_quarantine(store: Store, *, older_than: timedelta) -> tuple[str, ...]:
    """Remove the pictures of scenarios whose end, or last review, is older than this. Doing it again changes nothing.

    Returns:
        Names of what was removed.

    Raises:
        StorageUnavailable: the store refused or did not answer.
    """
    removed: list[str] = []
    now = datetime.now(UTC)
    for name in store.list("records"):
        scenario_id = name.removeprefix("records/").removesuffix(".json")
        record = read_record(store, scenario_id)
        # Whatever lies in quarantine was put there before the record's last change, earlier clips included.
        if record is None or not record.status.is_final or now - record.finished_at < older_than:
            continue
        pictures = [file for file in store.list(quarantine_folder(scenario_id)) if file.endswith(_PICTURES)]
        if store.size(quarantine_name(scenario_id)) is not None:
            pictures.append(quarantine_name(scenario_id))
        if not pictures:
            continue
        # First the note, so that an interruption never leaves a clip that is gone for no reason.
        _note(store, record, pictures, now)
        for picture in pictures:
            store.remove(picture)
        removed += pictures
    return tuple(removed)


def is_expired(store: Store, record: Record) -> bool:
    """Whether the held clip of a record was removed because of its age."""
    if record.output is None or record.output.video != quarantine_name(record.scenario_id):
        return False
    data = store.read_bytes(_note_name(record.scenario_id))
    if data is None or json.loads(data).get("video_sha256") != record.output.sha256:
        return False
    return store.size(record.output.video) is None


def _note(store: Store, record: Record, pictures: list[str], now: datetime) -> None:
    note = {
        "job_id": record.job_id,
        "video_sha256": record.output.sha256 if record.output else None,
        "at": now.isoformat(),
        "removed": pictures,
    }
    store.publish_bytes(
        json.dumps(note, indent=2).encode(), _note_name(record.scenario_id), content_type="application/json"
    )


def _note_name(scenario_id: str) -> str:
    return f"{quarantine_folder(scenario_id)}/expired.json"
