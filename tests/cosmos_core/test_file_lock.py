"""A lock that its holder's death opens."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import textwrap
import time

from cosmos_core.file_lock import FileLock, lock_holder

HOLD = """
    import subprocess, sys, time
    from pathlib import Path
    from cosmos_core.file_lock import FileLock
    lock = FileLock.take(Path(sys.argv[1]), {"owner": "another process"})
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(lock is not None, child.pid, flush=True)
    time.sleep(60)
"""


def test_a_lock_excludes_and_says_who_holds_it(tmp_path):
    path = tmp_path / "device.run"
    assert lock_holder(path) is None
    lock = FileLock.take(path, {"owner": "first"})
    assert lock is not None
    assert FileLock.take(path, {"owner": "second"}) is None
    assert lock_holder(path) == {"owner": "first"}
    lock.describe({"owner": "x"})
    assert lock_holder(path) == {"owner": "x"}
    lock.release()
    lock.release()
    assert lock_holder(path) is None
    assert FileLock.take(path, {}) is not None


def test_the_lock_of_a_killed_process_is_free_at_once_even_if_its_children_live_on(tmp_path):
    path = tmp_path / "device.run"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    taken, child = holder.stdout.readline().split()
    try:
        assert taken == "True"
        assert lock_holder(path) == {"owner": "another process"}
        assert FileLock.take(path, {}) is None
        holder.kill()
        holder.wait()
        started = time.monotonic()
        assert FileLock.take(path, {"owner": "test"}) is not None
        assert time.monotonic() - started < 0.5
    finally:
        os.kill(int(child), signal.SIGKILL)
        holder.stdout.close()


def test_what_stands_in_a_lock_file_is_not_trusted(tmp_path):
    path = tmp_path / "device.run"
    path.write_text("not json")
    lock = FileLock.take(path, {})
    assert lock is not None
    path.write_text("[1, 2]")
    assert lock_holder(path) == {}


def test_a_lock_on_a_file_that_was_removed_excludes_nobody_and_is_not_kept(tmp_path, monkeypatch):
    path = tmp_path / "device.run"
    real, calls = fcntl.flock, []

    def flock(descriptor: int, operation: int) -> None:
        if not calls:
            path.unlink()  # after it was opened, before it is locked
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr("cosmos_core.file_lock.fcntl.flock", flock)
    lock = FileLock.take(path, {"owner": "test"})
    assert lock is not None
    assert len(calls) == 2
    monkeypatch.undo()
    assert lock_holder(path) == {"owner": "test"}
