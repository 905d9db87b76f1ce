"""Quarantine and review: evidence beside the clip, approval through the publish step, nothing lost, nothing forged."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cosmos_core.errors import ReviewRefused
from cosmos_core.hashing import sha256_bytes, sha256_file
from cosmos_core.video_file import read_video, write_video
from tasks.audit import AuditLog, decision_entries
from tasks.audit_verification import verify_audit
from tasks.lineage_dataset import open_lineage
from tasks.lineage_query import rows_of
from tasks.lineage_rows import collect_lineage
from tasks.policy import decide, load_policy
from tasks.quarantine import hold_clip, read_evidence
from tasks.records import CodeVersion, Output, Record, Status, read_record, results_row, write_record
from tasks.release import release_key, require_release
from tasks.results import publish_results, refresh_results, with_reviews
from tasks.review import approve, held_clips, reject, require_held, reviews_of
from tasks.scenario import Scenario
from tasks.storage import open_store
from tasks.verdicts import Verdict

POLICY = load_policy("configs/guardrail/its-accident.yaml")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path):
    place = str(tmp_path / "out") if request.param == "local" else request.getfixturevalue("bucket") + "/run"
    return open_store(place)


@pytest.fixture
def key(tmp_path):
    return release_key(tmp_path / "home")


def verdicts(*, prompt=None, video=None, video_check="video.redaction", evidence=None):
    """Verdicts of every required check, some of them flags."""

    def made(stage, check, category=None, shown=None):
        status = "flag" if category else "pass"
        return Verdict(stage=stage, check=check, status=status, category=category, backend="test", evidence=shown or {})

    flags = {("prompt", "text.lexicon"): (prompt, None), ("video", video_check): (video, evidence)}
    return tuple(
        made(stage, check, *flags.get((stage, check), (None, None)))
        for stage, checks in POLICY.stages.items()
        for check in checks.required
    )


def hold(store, tmp_path, scenario_id="a", *, seed=0, job_id="j1", **flags):
    """Bring a clip into quarantine as the publish step does."""
    frames = np.random.default_rng(seed).integers(0, 255, (9, 32, 48, 3), dtype=np.uint8)
    path = tmp_path / f"{scenario_id}-{seed}.mp4"
    write_video(frames, path, fps=10, crf=18)
    decision = decide(POLICY, verdicts(**(flags or {"prompt": "casualty_nongraphic"})))
    digest = sha256_file(path)
    entries = decision_entries(
        decision, run_id="r1", scenario_id=scenario_id, job_id=job_id, input_sha256=None, video_sha256=digest
    )
    mark = AuditLog(store).append(entries)
    held = hold_clip(store, scenario_id, path, decision, job_id=job_id, video_sha256=digest)
    scenario = Scenario(
        row_number=0, scenario_id=scenario_id, input="a.png", input_uri="/a.png", prompt="A crash.", labels={"x": "y"}
    )
    record = Record(
        scenario_id=scenario_id,
        status=Status.BLOCKED if decision.action == "block" else Status.QUARANTINED,
        reason="; ".join(decision.reasons),
        job_id=job_id,
        scenario=scenario,
        decision=decision,
        audit=mark,
        evidence=held.picture_names,
        output=Output(
            video=held.video, sha256=digest, num_bytes=path.stat().st_size, width=48, height=32, num_frames=9, fps=10
        ),
        code=CodeVersion(package="0.1.0", core="1"),
        manifest_uri="m.json",
        manifest_sha256="0" * 64,
        run_id="r1",
        finished_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    write_record(store, record)
    return record


def results(store, *records):
    rows = [
        results_row(record, store, reused=False, run_id="r1") | {"row_number": number}
        for number, record in enumerate(records)
    ]
    publish_results(store, rows, facts={"run": "r1"})


def test_a_review_leaves_the_device_time_on_the_contact_sheet(store, tmp_path):
    record = hold(store, tmp_path).model_copy(update={"device_s": 90.0, "planned_device_s": 100.0})
    write_record(store, record)
    results(store, record)
    reject(store, "a", by="Kim", reason="a person is recognisable")
    refresh_results(store)
    assert "device time: 90.0 s for 1 video, planned 1 min 40 s" in store.read_bytes("index.html").decode()


def table(store):
    return pq.read_table(io.BytesIO(store.read_bytes("results.parquet"))).to_pylist()


def test_a_review_is_in_the_lineage(store, tmp_path, key):
    dataset = open_lineage(f"{store.uri}/lineage", create=True)
    record = hold(store, tmp_path).model_copy(update={"lineage": dataset.uri})
    write_record(store, record)
    collect_lineage(dataset, store)
    approve(store, "a", by="Kim", reason="not graphic", policy=POLICY, key=key)
    [row] = dataset.ask(lambda parts: rows_of(dataset, parts, ds.scalar(True)))
    assert (row["status"], row["review"], row["reviewed_by"]) == ("published", "approved", "Kim")
    assert row["video_uri"] == store.uri_of("videos/a.mp4")


def test_an_approval_publishes_the_very_clip_and_says_who_when_and_why(store, tmp_path, key):
    record = hold(store, tmp_path)
    results(store, record, hold(store, tmp_path, "b", seed=1))
    clip = store.read_bytes("quarantine/a.mp4")
    approve(store, "a", by="Kim Lee", reason="nobody is recognisable", policy=POLICY, key=key)
    refresh_results(store)

    assert store.read_bytes("videos/a.mp4") == clip == store.read_bytes("quarantine/a.mp4")
    after = read_record(store, "a")
    assert (after.status, after.job_id, after.output.video) == (Status.PUBLISHED, "j1", "videos/a.mp4")
    assert (after.review.verdict, after.review.by, after.review.reason) == (
        "approved",
        "Kim Lee",
        "nobody is recognisable",
    )
    assert after.review.video_sha256 == sha256_bytes(clip)
    require_release(after.release, clip, key, scenario_id="a", job_id="j1", policy_sha256=POLICY.sha256)
    assert after.decision == record.decision

    first, second = table(store)
    assert (first["status"], first["video_sha256"]) == ("published", sha256_bytes(clip))
    assert json.loads(first["review"])["by"] == "Kim Lee"
    assert (second["status"], second["video_uri"]) == ("quarantined", None)
    page = store.read_bytes("index.html").decode()
    assert 'src="videos/a.mp4' in page
    assert "approved by Kim Lee: nobody is recognisable" in page
    assert 'src="videos/b.mp4' not in page

    [logged] = [row for row in AuditLog(store).rows() if row.kind == "review"]
    assert (logged.action, logged.actor, logged.note) == ("approved", "Kim Lee", "nobody is recognisable")
    assert verify_audit(store).problems == ()
    assert [clip.scenario_id for clip in held_clips(store)] == ["b"]


def test_a_rejection_keeps_the_clip_and_can_be_taken_back(store, tmp_path, key):
    results(store, hold(store, tmp_path))
    reject(store, "a", by="Kim", reason="a person is recognisable")
    refresh_results(store)
    assert store.size("quarantine/a.mp4")
    assert store.size("videos/a.mp4") is None
    [row] = table(store)
    assert row["status"] == "quarantined"
    assert row["reason"].startswith("rejected by Kim: a person is recognisable (held for: ")
    approve(store, "a", by="Ada", reason="looked again", policy=POLICY, key=key)
    assert [review.verdict for review in reviews_of(store, "a")] == ["rejected", "approved"]
    assert read_record(store, "a").status is Status.PUBLISHED


BARRED = {
    "blocked text": {"prompt": "violent_intent"},
    "blocked picture": {"video": "sexual"},
    "locked residual": {"video": "face_residual"},
}


@pytest.mark.parametrize("flags", BARRED.values(), ids=BARRED.keys())
def test_what_is_blocked_or_locked_cannot_be_approved(tmp_path, key, flags):
    store = open_store(str(tmp_path / "out"))
    hold(store, tmp_path, **flags)
    with pytest.raises(ReviewRefused):
        approve(store, "a", by="Kim", reason="please", policy=POLICY, key=key)
    assert store.list("videos") == ()
    assert reviews_of(store, "a") == ()


def milder(record):
    """The record as somebody would rewrite it to get a blocked clip out."""
    decision = record.decision.model_copy(update={"action": "review", "verdicts": verdicts()})
    return record.model_copy(update={"decision": decision, "status": Status.QUARANTINED})


def test_a_record_that_was_rewritten_is_no_way_out(tmp_path, key):
    store = open_store(str(tmp_path / "out"))
    write_record(store, milder(hold(store, tmp_path, prompt="violent_intent")))
    with pytest.raises(ReviewRefused, match="not the one in the log"):
        approve(store, "a", by="Kim", reason="please", policy=POLICY, key=key)


@pytest.mark.parametrize(
    "act",
    [
        lambda store, key: approve(store, "a", by="Kim", reason="ok", policy=POLICY, key=key),
        lambda store, key: reject(store, "a", by="Kim", reason="no"),
    ],
    ids=["approve", "reject"],
)
def test_a_clip_that_was_exchanged_is_neither_approved_nor_rejected(tmp_path, key, act):
    store = open_store(str(tmp_path / "out"))
    hold(store, tmp_path)
    store.publish_bytes(b"another clip", "quarantine/a.mp4", content_type="video/mp4")
    with pytest.raises(ReviewRefused, match="was changed"):
        act(store, key)
    assert store.list("videos") == ()


def test_another_policy_approves_nothing(tmp_path, key):
    store = open_store(str(tmp_path / "out"))
    hold(store, tmp_path)
    with pytest.raises(ReviewRefused, match="--config"):
        approve(store, "a", by="Kim", reason="ok", policy=load_policy("configs/guardrail/ci.yaml"), key=key)


@pytest.mark.parametrize(("by", "reason"), [("", "ok"), ("Kim", " \n"), ("  ", "")])
def test_a_review_without_a_name_or_a_reason_is_refused(tmp_path, key, by, reason):
    store = open_store(str(tmp_path / "out"))
    hold(store, tmp_path)
    with pytest.raises(ReviewRefused, match="a name and a reason"):
        approve(store, "a", by=by, reason=reason, policy=POLICY, key=key)
    assert reviews_of(store, "a") == ()


def test_what_is_not_held_cannot_be_reviewed(tmp_path, key):
    store = open_store(str(tmp_path / "out"))
    with pytest.raises(ReviewRefused, match="no record"):
        require_held(store, "a")
    hold(store, tmp_path)
    approve(store, "a", by="Kim", reason="ok", policy=POLICY, key=key)
    with pytest.raises(ReviewRefused, match="not in quarantine"):
        reject(store, "a", by="Kim", reason="no")


def test_evidence_shows_the_offending_frames_with_what_was_found_outlined(tmp_path):
    store = open_store(str(tmp_path / "out"))
    box = {"kind": "face", "frame": 5, "x": 10, "y": 8, "width": 12, "height": 12}
    hold(store, tmp_path, video="face_residual", evidence={"residual_boxes": [box]})
    [picture] = read_evidence(store, "a").pictures
    assert (picture.name, picture.frame, picture.caption) == ("quarantine/a/frame-0005.jpg", 5, "face_residual")
    shown = np.asarray(Image.open(io.BytesIO(store.read_bytes(picture.name)))).astype(int)
    clip = read_video(Path(store.root) / "quarantine" / "a.mp4")[5].astype(int)
    edge, far = np.s_[8, 10:22], np.s_[20:, 30:]
    assert (shown[edge][:, 0] - shown[edge][:, 1]).min() > 90
    assert np.abs(shown[far] - clip[far]).mean() < 12


@pytest.mark.parametrize(
    ("flags", "frames", "caption"),
    [
        ({"prompt": "casualty_nongraphic"}, [0, 4, 8], "context"),
        ({"video": "frozen", "video_check": "video.sanity"}, [0, 4, 8], "frozen"),
        (
            {
                "video": "black",
                "video_check": "video.sanity",
                "evidence": {"findings": [{"category": "black", "first_frame": 2, "last_frame": 3}]},
            },
            [2, 3],
            "black",
        ),
    ],
    ids=["a text", "a whole clip", "named frames"],
)
def test_evidence_of_other_findings(tmp_path, flags, frames, caption):
    store = open_store(str(tmp_path / "out"))
    hold(store, tmp_path, **flags)
    pictures = read_evidence(store, "a").pictures
    assert [picture.frame for picture in pictures] == frames
    assert {picture.caption for picture in pictures} == {caption}
    assert all(store.size(picture.name) for picture in pictures)


def test_a_new_clip_of_the_scenario_moves_the_earlier_one_aside(store, tmp_path):
    hold(store, tmp_path)
    reject(store, "a", by="Kim", reason="no")
    before = {name: store.read_bytes(name) for name in store.list("quarantine")}
    hold(store, tmp_path, seed=1, job_id="j2")
    digest = sha256_bytes(before["quarantine/a.mp4"])
    aside = f"quarantine/a/earlier/{digest[:16]}"
    assert store.read_bytes(f"{aside}/clip.mp4") == before.pop("quarantine/a.mp4")
    for name, data in before.items():
        assert store.read_bytes(name.replace("quarantine/a", aside, 1)) == data
    assert reviews_of(store, "a") == ()
    assert read_evidence(store, "a").job_id == "j2"


def test_a_run_that_ends_after_an_approval_does_not_undo_it(tmp_path, key):
    store = open_store(str(tmp_path / "out"))
    rows = [results_row(hold(store, tmp_path), store, reused=False, run_id="r1")]
    approve(store, "a", by="Kim", reason="ok", policy=POLICY, key=key)
    assert [row["status"] for row in with_reviews(store, rows)] == ["published"]
    other_job = [rows[0] | {"job_id": "j2"}]
    assert with_reviews(store, other_job) == other_job


def test_two_reviewers_at_once_leave_a_whole_table(tmp_path, key, monkeypatch):
    store = open_store(str(tmp_path / "out"))
    results(store, hold(store, tmp_path), hold(store, tmp_path, "b", seed=1))
    approve(store, "a", by="Kim", reason="ok", policy=POLICY, key=key)
    import tasks.results

    original, calls = tasks.results.publish_results, []

    def interrupted(*arguments, **named):
        if not calls:  # between Kim's reading and writing of the table, Ada approves the other one
            calls.append(1)
            approve(store, "b", by="Ada", reason="ok", policy=POLICY, key=key)
        original(*arguments, **named)

    monkeypatch.setattr(tasks.results, "publish_results", interrupted)
    refresh_results(store)
    assert [row["status"] for row in table(store)] == ["published", "published"]
