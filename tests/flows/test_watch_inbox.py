"""The inbox: one run for each manifest, also with two watchers; a refusal is told once."""

from __future__ import annotations

import contextvars
import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import flows.watch_inbox
from cosmos_core.errors import StorageUnavailable
from flows.watch_inbox import watch_inbox
from tasks.inbox_drops import Drop, waiting_drops, write_receipt
from tasks.storage import open_store
from tests.flows.conftest import wait_until

PROMPT = "A static traffic CCTV camera captures an intersection."

pytestmark = pytest.mark.e2e


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    (folder / "frames").mkdir(parents=True)
    Image.new("RGB", (64, 36)).save(folder / "frames" / "a.png")
    return folder


def drop(inbox: Path, name: str = "night.json", *, prompt: str = PROMPT, frame: str = "frames/a.png") -> None:
    row = {"input": frame, "prompt": f"{prompt} {inbox.parent.name}", "scenario_id": "a"}
    (inbox / name).write_text(json.dumps([row]))


def poll(inbox: Path | str, **parameters: Any) -> str:
    state = watch_inbox(str(inbox), settle_s=0, return_state=True, **parameters)
    assert state.is_completed(), state
    return state.message


def told(api: str, inbox_name: str) -> list[dict[str, Any]]:
    """Events about the manifests of one inbox."""
    page = httpx.post(f"{api}/events/filter", json={"filter": {"event": {"prefix": ["crossroads.manifest."]}}}).json()
    return [event for event in page["events"] if event["payload"]["name"].startswith(inbox_name)]


def test_two_watchers_at_once_start_one_run(api, deployed, inbox, monkeypatch):
    name = f"{inbox.parent.name}.json"
    drop(inbox, name)
    barrier = threading.Barrier(2)
    real = flows.watch_inbox.start_once

    def at_the_same_moment(*arguments):
        barrier.wait(60)
        return real(*arguments)

    monkeypatch.setattr(flows.watch_inbox, "start_once", at_the_same_moment)
    messages: list[str] = []
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(lambda: messages.append(poll(inbox)),))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(messages) == [
        "0 started, 1 known, 0 refused, 0 put off",
        "1 started, 0 known, 0 refused, 0 put off",
    ]
    [run] = deployed()
    assert run.parameters["input_root"] == str(inbox)
    [started] = (inbox / "started").iterdir()
    assert json.loads(started.read_text())["run_id"] == str(run.id)
    wait_until(lambda: told(api, name), timeout_s=30)

    # A second look starts nothing, and nothing more is told.
    monkeypatch.setattr(flows.watch_inbox, "start_once", real)
    assert poll(inbox) == "0 started, 0 known, 0 refused, 0 put off"
    [event] = told(api, name)
    assert (event["event"], event["payload"]["run_id"]) == ("crossroads.manifest.received", str(run.id))
    assert len(deployed()) == 1


def test_nothing_starts_again_without_the_receipts_or_the_servers_memory(deployed, inbox):
    from prefect.client.orchestration import get_client

    drop(inbox)
    poll(inbox)
    [run] = deployed()
    with get_client(sync_client=True) as client:
        client.delete_flow_run(run.id)
    for receipt in (inbox / "received").iterdir():
        receipt.unlink()
    assert poll(inbox) == "0 started, 1 known, 0 refused, 0 put off"
    assert deployed() == []


def test_a_watcher_that_died_before_it_noted_the_run_started_only_that_one(deployed, inbox, monkeypatch):
    drop(inbox)

    with monkeypatch.context() as patched:
        patched.setattr("tasks.storage.Store.publish_new_bytes", _dying_at("started/"))
        with pytest.raises(StorageUnavailable, match="went away"):
            watch_inbox(str(inbox), settle_s=0)
    assert len(deployed()) == 1
    assert poll(inbox) == "1 started, 0 known, 0 refused, 0 put off"
    assert len(deployed()) == 1


def test_the_same_manifest_under_another_name_is_known_and_another_content_is_new(deployed, inbox):
    drop(inbox)
    poll(inbox)
    drop(inbox, "copy.json")
    assert poll(inbox) == "0 started, 1 known, 0 refused, 0 put off"
    drop(inbox, prompt="At night, a camera captures a road.")
    assert poll(inbox) == "1 started, 0 known, 0 refused, 0 put off"
    assert len(deployed()) == 2
    # Runs read the copies: what was written over the first manifest changed nothing for its run.
    assert len({run.parameters["manifest"] for run in deployed()}) == 2


def test_a_refusal_is_told_once_and_keeps_nobody_waiting(api, deployed, inbox):
    name = f"{inbox.parent.name}-broken.parquet"
    (inbox / name).write_bytes(b"PAR1 no table")
    drop(inbox, "missing-frame.json", frame="frames/none.png")
    drop(inbox)
    (inbox / "readme.txt").write_text("not a manifest, and not pretending to be one")
    assert poll(inbox) == "1 started, 0 known, 2 refused, 0 put off"
    assert poll(inbox) == "0 started, 0 known, 0 refused, 0 put off"
    reasons = {row["name"]: row["reason"] for row in (json.loads(f.read_text()) for f in (inbox / "refused").iterdir())}
    assert set(reasons) == {name, "missing-frame.json"}
    assert "row 0: input" in reasons["missing-frame.json"]
    wait_until(lambda: told(api, name), timeout_s=30)
    [event] = told(api, name)
    assert (event["event"], event["payload"]["reason"]) == ("crossroads.manifest.refused", reasons[name])

    # The frame comes late; the manifest is copied there once more, byte for byte the same.
    Image.new("RGB", (64, 36)).save(inbox / "frames" / "none.png")
    drop(inbox, "missing-frame.json", frame="frames/none.png")
    assert poll(inbox) == "1 started, 0 known, 0 refused, 0 put off"
    assert len(deployed()) == 2


def test_a_bucket_is_watched_in_the_same_way(deployed, bucket):
    store = open_store(f"{bucket}/inbox")
    assert poll(store.uri) == "0 started, 0 known, 0 refused, 0 put off"
    rows = [{"input": "frames/a.png", "prompt": f"{PROMPT} {bucket}"}]
    store.publish_bytes(json.dumps(rows).encode(), "night.json", content_type="application/json")
    store.publish_bytes(b"[]", "empty.json", content_type="application/json")
    assert poll(store.uri) == "1 started, 0 known, 1 refused, 0 put off"
    assert poll(store.uri) == "0 started, 0 known, 0 refused, 0 put off"
    [run] = deployed()
    assert run.parameters["manifest"].startswith(f"{bucket}/inbox/manifests/")


def test_a_file_that_may_still_be_written_is_put_off(inbox):
    drop(inbox)
    store = open_store(str(inbox))
    [fresh] = waiting_drops(store, settle_s=60)[1]
    assert waiting_drops(store, settle_s=60)[0] == ()
    [ready] = waiting_drops(store, settle_s=0)[0]
    assert (fresh.id, ready.name) == (ready.id, "night.json")
    assert write_receipt(store, ready, "received")
    assert not write_receipt(store, ready, "received")
    assert waiting_drops(store, settle_s=0) == ((), ())
    assert Drop("night.json", "another", None).id != ready.id


def _dying_at(folder: str):
    from tasks.storage import Store

    real = Store.publish_new_bytes

    def publish(self: Store, data: bytes, name: str, **keywords: Any) -> bool:
        if name.startswith(folder):
            raise StorageUnavailable("the machine went away")
        return real(self, data, name, **keywords)

    return publish
