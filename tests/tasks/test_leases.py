"""Leases between real processes: one run a device, and the dead hold nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from cosmos_core.errors import BadConfig
from cosmos_core.file_lock import FileLock
from tasks.devices import Device
from tasks.leases import MachineState, RunLease, describe_users, occupants

ZERO, ONE = (Device(name=f"gpu{n}", key=f"GPU-{n}/x", visible=f"GPU-{n}/x") for n in range(2))

RUN = """
    import sys, time
    from pathlib import Path
    from tasks.devices import Device
    from tasks.leases import MachineState, RunLease
    state = MachineState(Path(sys.argv[1]))
    taken = []
    for key in sys.argv[2:]:
        device = Device(name=key, key=key, visible=key)
        lease = RunLease.take(state, [device], owner="a rival")
        if lease is not None:
            taken.append((key, lease))
    print(*(key for key, _ in taken), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def state(tmp_path: Path) -> MachineState:
    return MachineState(tmp_path / "state")


def rival(state: MachineState, *keys: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(RUN), str(state.locks.parent), *keys],
        stdout=subprocess.PIPE,
        text=True,
    )


def taken_by(process: subprocess.Popen[str]) -> set[str]:
    assert process.stdout is not None
    return set(process.stdout.readline().split())


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_of_many_runs_each_device_goes_to_one(state):
    keys = [f"GPU-{index}" for index in range(4)]
    runs = [rival(state, *keys) for _ in range(4)]
    try:
        shares = [taken_by(run) for run in runs]
        assert sorted(key for share in shares for key in share) == keys
    finally:
        end(*runs)


def test_the_lease_of_a_killed_run_is_free_at_once(state):
    process = rival(state, ZERO.key)
    try:
        assert taken_by(process) == {ZERO.key}
        assert RunLease.take(state, [ZERO], owner="test") is None
        assert "gpu0 is used by owner a rival" in describe_users(state, [ZERO, ONE])
        assert f"pid {process.pid}" in describe_users(state, [ZERO])
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        lease = RunLease.take(state, [ZERO], owner="test")
        assert lease is not None
        assert time.monotonic() - started < 0.5
        lease.release()
        assert describe_users(state, [ZERO]) == ""
    finally:
        end(process)


def test_a_stopped_run_keeps_its_lease(state):
    process = rival(state, ZERO.key)
    try:
        assert taken_by(process) == {ZERO.key}
        os.kill(process.pid, signal.SIGSTOP)
        assert RunLease.take(state, [ZERO], owner="test") is None
    finally:
        end(process)


def test_several_devices_are_leased_all_or_none(state):
    held = RunLease.take(state, [ONE], owner="other")
    assert held is not None
    assert RunLease.take(state, [ZERO, ONE], owner="test") is None
    alone = RunLease.take(state, [ZERO], owner="test")
    assert alone is not None, "what could not be leased whole must not stay leased in part"
    alone.release()
    held.release()
    both = RunLease.take(state, [ZERO, ONE], owner="test")
    assert both is not None
    both.keep_fresh()
    both.release()


def test_a_worker_on_a_device_is_seen_also_when_no_run_has_it(state):
    assert occupants(state, [ZERO, ONE]) == {}
    lock = FileLock.take(state.worker_lock(ZERO), {"pid": 7, "spec": "x"})
    assert lock is not None
    assert occupants(state, [ZERO, ONE]) == {ZERO.key: {"pid": 7, "spec": "x"}}
    assert "gpu0 is occupied by pid 7" in describe_users(state, [ZERO])


def test_the_folder_of_workers_is_for_one_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSROADS_STATE", str(tmp_path / "state"))
    state = MachineState()
    assert state.workers.parent == tmp_path / "state"
    assert state.workers.stat().st_mode & 0o777 == 0o700
    assert state.locks.stat().st_mode & 0o7777 == 0o1777
    state.workers.chmod(0o770)
    with pytest.raises(BadConfig, match="is not private"):
        MachineState()
    state.workers.rmdir()
    state.workers.symlink_to(tmp_path)
    with pytest.raises(BadConfig, match="is not private"):
        MachineState()


def test_by_default_all_users_of_a_machine_meet_in_one_place(monkeypatch):
    monkeypatch.delenv("CROSSROADS_STATE")
    monkeypatch.setenv("TMPDIR", "/somewhere")
    made = []
    monkeypatch.setattr(Path, "is_dir", lambda self: True)
    monkeypatch.setattr(Path, "mkdir", lambda self, *_, **__: made.append(self))
    monkeypatch.setattr("tasks.leases._require_private", lambda folder: None)
    state = MachineState()
    assert state.locks == Path("/tmp/crossroads-locks")
    assert made == [Path(f"/tmp/crossroads-workers-{os.getuid()}")]
