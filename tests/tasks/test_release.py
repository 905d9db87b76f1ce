"""Release tokens: for one file, one scenario, one job, one policy, made here, or else nothing is published."""

from __future__ import annotations

import stat
import threading

import pytest

from cosmos_core.errors import BadConfig, ReleaseRefused
from cosmos_core.hashing import sha256_bytes
from tasks.publishing import show_clip
from tasks.release import KEY_NAME, issue_release, release_key, require_release
from tasks.storage import open_store
from tasks.verdicts import Decision

VIDEO = b"a clip"
PLACE = {"scenario_id": "a", "job_id": "j1"}


def decision(action="allow", policy="p" * 64) -> Decision:
    return Decision(
        action=action, reasons=(), policy_id="its", policy_version=1, policy_sha256=policy,
        requested_checks=(), effective_checks=(), verdicts=(),
    )  # fmt: skip


@pytest.fixture
def key(tmp_path):
    return release_key(tmp_path / "home")


def issued(key, **changes):
    fields = PLACE | {"video_sha256": sha256_bytes(VIDEO)} | changes
    return issue_release(key, fields.pop("decision", decision()), **fields)


def publish(store, token, key, video=VIDEO, **changes):
    place = PLACE | {"policy_sha256": "p" * 64} | changes
    return show_clip(store, place.pop("scenario_id"), video, b"jpeg", token, key, **place)


@pytest.mark.parametrize("action", ["allow", "redact"])
def test_what_was_released_is_published(tmp_path, key, action):
    store = open_store(str(tmp_path / "out"))
    token = issued(key, decision=decision(action))
    assert publish(store, token, key) == "videos/a.mp4"
    assert store.read_bytes("videos/a.mp4") == VIDEO
    assert (token.basis, token.approved_by) == ("decision", None)


REFUSALS = {
    "no token": (lambda key: None, {}, "no release token"),
    "changed bytes": (issued, {"video": b"a clip."}, "another SHA-256"),
    "other scenario": (issued, {"scenario_id": "b"}, "another scenario"),
    "other job": (issued, {"job_id": "j2"}, "another job"),
    "other policy": (issued, {"policy_sha256": "q" * 64}, "another policy"),
    "foreign key": (lambda key: issued(b"x" * 32), {}, "not made here"),
    "forged hash": (
        lambda key: issued(key).model_copy(update={"video_sha256": sha256_bytes(b"other")}),
        {"video": b"other"},
        "not made here",
    ),
    "forged approval": (lambda key: issued(key).model_copy(update={"approved_by": "me"}), {}, "not made here"),
}


@pytest.mark.parametrize(("make", "changes", "clue"), REFUSALS.values(), ids=REFUSALS.keys())
def test_anything_else_is_refused_and_leaves_no_file(tmp_path, key, make, changes, clue):
    store = open_store(str(tmp_path / "out"))
    with pytest.raises(ReleaseRefused, match=clue):
        publish(store, make(key), key, **changes)
    assert store.list("videos") == ()


@pytest.mark.parametrize("action", ["review", "quarantine", "block"])
def test_a_decision_that_holds_releases_nothing(key, action):
    with pytest.raises(ReleaseRefused, match="may not be published"):
        issued(key, decision=decision(action))


def test_an_approval_releases_what_is_held_but_never_what_is_blocked(key):
    token = issued(key, decision=decision("quarantine"), approved_by="Kim")
    assert (token.basis, token.approved_by) == ("approval", "Kim")
    require_release(token, VIDEO, key, **PLACE, policy_sha256="p" * 64)
    with pytest.raises(ReleaseRefused, match="may not be published"):
        issued(key, decision=decision("block"), approved_by="Kim")


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path):
    keys: list[bytes] = []
    threads = [threading.Thread(target=lambda: keys.append(release_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert stat.S_IMODE((tmp_path / KEY_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [KEY_NAME]


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    release_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o640)
    with pytest.raises(BadConfig, match="can be read by others"):
        release_key(tmp_path)
    (tmp_path / KEY_NAME).chmod(0o600)
    (tmp_path / KEY_NAME).write_bytes(b"")
    with pytest.raises(BadConfig, match="no release key"):
        release_key(tmp_path)
