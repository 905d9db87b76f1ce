"""Expiry takes the pictures and leaves what was decided; verification sees every byte that is not as recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from cosmos_core.errors import ReviewRefused
from tasks.audit_verification import verify_audit
from tasks.file_verification import outputs_below, verify_output
from tasks.outcomes import finished_row
from tasks.quarantine import quarantine_name, read_evidence
from tasks.quarantine_expiry import expire_quarantine, is_expired
from tasks.records import read_record, write_record
from tasks.review import held_clips, reject, require_held
from tasks.storage import open_store
from tests.tasks.test_review import hold

DAYS_OLD = (datetime.now(UTC) - datetime(2026, 1, 2, tzinfo=UTC)).days


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path):
    place = str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("bucket") + "/run"
    return open_store(place)


def finished(store, record):
    """What a later run of the same job makes of the record."""
    lineage = SimpleNamespace(add_missing=lambda record: None)
    run = SimpleNamespace(store=store, run_id="r2", lineage=lineage)
    return finished_row(run, SimpleNamespace(scenario=record.scenario, job_id=record.job_id))


def test_old_pictures_go_and_everything_that_was_decided_stays(store, tmp_path):
    hold(store, tmp_path, seed=0)
    record = hold(store, tmp_path, seed=1, job_id="j2")  # the first clip moves to `earlier`
    fresh = hold(store, tmp_path, "fresh")
    write_record(store, fresh.model_copy(update={"finished_at": datetime.now(UTC)}))
    assert expire_quarantine(store, older_than=timedelta(days=DAYS_OLD + 1)) == ()
    assert [held.scenario_id for held in held_clips(store)] == ["a", "fresh"]

    removed = expire_quarantine(store, older_than=timedelta(days=DAYS_OLD - 1))
    assert quarantine_name("a") in removed
    assert any("/earlier/" in name and name.endswith("clip.mp4") for name in removed)
    left = store.list("quarantine")
    assert not [name for name in left if name.endswith((".mp4", ".jpg")) and "fresh" not in name]
    assert store.size(quarantine_name("fresh"))
    assert is_expired(store, record)
    assert not is_expired(store, fresh)
    evidence = read_evidence(store, "a")
    assert evidence is not None
    assert evidence.decision == record.decision
    assert read_record(store, "a") == record
    assert verify_audit(store).is_whole
    assert expire_quarantine(store, older_than=timedelta(days=DAYS_OLD - 1)) == ()


def test_an_expired_clip_is_finished_and_cannot_be_reviewed(store, tmp_path):
    record = hold(store, tmp_path)
    expire_quarantine(store, older_than=timedelta(0))
    assert [held.scenario_id for held in held_clips(store)] == []
    with pytest.raises(ReviewRefused, match="has expired"):
        require_held(store, "a")
    row = finished(store, record)
    assert row is not None
    assert (row["status"], row["reused"]) == ("quarantined", True)
    # Held again by another job, it is a held clip like any other.
    hold(store, tmp_path, seed=1, job_id="j2")
    assert require_held(store, "a").record.job_id == "j2"


def test_a_clip_that_is_gone_for_another_reason_is_made_again(store, tmp_path):
    record = hold(store, tmp_path)
    assert finished(store, record) is not None
    store.remove(quarantine_name("a"))
    assert not is_expired(store, record)
    assert finished(store, record) is None


def test_a_review_is_a_touch(store, tmp_path):
    hold(store, tmp_path)
    reject(store, "a", by="Ada", reason="too much")
    assert expire_quarantine(store, older_than=timedelta(days=1)) == ()


def test_verification_names_what_was_changed_and_what_is_missing(store, tmp_path):
    for scenario_id in ("a", "b", "c"):
        hold(store, tmp_path, scenario_id)
    assert verify_output(store) == (3, [])
    data = bytearray(store.read_bytes(quarantine_name("a")) or b"")
    data[len(data) // 2] ^= 1
    store.publish_bytes(bytes(data), quarantine_name("a"), content_type="video/mp4")
    store.remove(quarantine_name("b"))
    num_videos, findings = verify_output(store)
    assert num_videos == 3
    assert [(row.name, row.problem.split(":")[0]) for row in findings] == [
        (quarantine_name("a"), "was changed"),
        (quarantine_name("b"), "is missing"),
    ]


def test_outputs_are_found_at_a_place_and_directly_below_it(store, tmp_path):
    assert outputs_below(store) == []
    one, two = store.below("one"), store.below("two")
    hold(one, tmp_path, "a")
    hold(two, tmp_path, "b")
    assert [found.uri for found in outputs_below(store)] == [one.uri, two.uri]
    assert [found.uri for found in outputs_below(one)] == [one.uri]
