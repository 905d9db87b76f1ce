"""Ranks succeed or fail together; what fails in the middle of a collective ends all of them with one typed error."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from cosmos_core import rank_watch
from cosmos_core.errors import AdapterMismatch, BadInput, CrossroadsError, OutOfMemory, WorkerLost, from_payload
from cosmos_core.rank_agreement import Ranks
from cosmos_core.rank_group import RankGroup
from cosmos_core.rank_watch import EXIT_CODE
from tests.process_gang import Gang


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang(3) as gang:
        yield gang


@pytest.fixture
def doomed() -> Iterator[Gang]:
    """Processes that are not expected to survive."""
    with Gang(2) as gang:
        yield gang


def agree() -> list:
    with Ranks() as ranks:
        seen = [
            ranks.first(lambda: ranks.rank),
            ranks.together(lambda: ranks.rank),
            ranks.gather(ranks.rank),
        ]
        for step in (lambda: fail_on(ranks, 0), lambda: fail_on(ranks, 1), lambda: fail_on(ranks, 2)):
            with pytest.raises(CrossroadsError) as raised:
                ranks.together(step)
            seen.append((type(raised.value).__name__, raised.value.got))
        with pytest.raises(BadInput) as raised:
            ranks.first(lambda: fail_on(ranks, 0))
        seen.append(str(raised.value))
        return seen


def fail_on(ranks: Ranks, rank: int) -> None:
    if ranks.rank == rank:
        raise [BadInput("wrong", got=0), torch.OutOfMemoryError("CUDA out of memory\nmore"), KeyError("two")][rank]


def test_what_one_rank_raises_all_raise_and_go_on(gang):
    results = gang.run(3, agree)
    assert [result.pop(1) for result in results] == [0, 1, 2]
    assert results[0] == results[1] == results[2]
    assert results[0] == [
        0,
        [0, 1, 2],
        ("BadInput", "0"),
        ("OutOfMemory", "CUDA out of memory"),
        ("CrossroadsError", "'two'"),
        "wrong: got 0",
    ]


def rendezvous(folder: Path, behaviour: str) -> None:
    """Rank 1 does as it is told while rank 0 waits for it in a collective on the data plane."""

    def say(error: CrossroadsError) -> None:
        with (folder / "said").open("a") as file:
            file.write(json.dumps(error.to_payload()) + "\n")

    rank_watch._SILENT_INTERVALS = 4
    with Ranks(say) as ranks:
        group = RankGroup(dist.new_group([0, 1]))
        (folder / f"pid{ranks.rank}").write_text(str(os.getpid()))
        with ranks.lockstep():
            group.broadcast(torch.zeros(1))
            if behaviour == "both" or (behaviour == "first" and ranks.is_first):
                raise AdapterMismatch("on both" if behaviour == "both" else "on rank 0")
            if ranks.rank == 1:
                if behaviour == "raise":
                    raise torch.OutOfMemoryError("CUDA out of memory")
                if behaviour == "interrupt":
                    raise KeyboardInterrupt
                if behaviour != "first":
                    time.sleep(600)
            group.broadcast(torch.zeros(1))
            group.collect(torch.zeros(1), [(1,), (1,)])


def said(folder: Path) -> list[CrossroadsError]:
    path = folder / "said"
    return [from_payload(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(path: Path) -> int:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return int(path.read_text())


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("raise", OutOfMemory, "CUDA out of memory"),
        ("interrupt", CrossroadsError, "KeyboardInterrupt"),
        ("first", AdapterMismatch, "on rank 0"),
        ("both", AdapterMismatch, "on both"),
    ],
)
def test_a_failure_between_collectives_ends_all_with_one_error(doomed, tmp_path, behaviour, kind, message):
    doomed.start(2, rendezvous, tmp_path, behaviour)
    assert [doomed.exit_code(rank) for rank in (0, 1)] == [EXIT_CODE, EXIT_CODE]
    (error,) = said(tmp_path)
    assert isinstance(error, kind)
    assert message in str(error)


def idle(folder: Path) -> None:
    with Ranks() as ranks:
        (folder / f"pid{ranks.rank}").write_text(str(os.getpid()))
        ranks.first(lambda: time.sleep(600))


@pytest.mark.parametrize("state", ["busy", "idle"])
def test_the_others_end_with_rank_0(doomed, tmp_path, state):
    doomed.start(2, *((rendezvous, tmp_path, "sleep") if state == "busy" else (idle, tmp_path)))
    wait_for(tmp_path / "pid1")
    os.kill(wait_for(tmp_path / "pid0"), signal.SIGKILL)
    assert doomed.exit_code(1) == EXIT_CODE


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_dies_or_hangs_ends_the_group(doomed, tmp_path, signal_number):
    doomed.start(2, rendezvous, tmp_path, "sleep")
    pid = wait_for(tmp_path / "pid1")
    wait_for(tmp_path / "pid0")
    time.sleep(1.0)  # into the collectives
    os.kill(pid, signal_number)
    assert doomed.exit_code(0) == EXIT_CODE
    (error,) = said(tmp_path)
    assert isinstance(error, WorkerLost)
    assert "rank 1" in str(error) if signal_number == signal.SIGSTOP else "went away" in str(error)


def test_with_one_process_errors_are_raised_as_they_are(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks() as ranks, pytest.raises(KeyError), ranks.lockstep():
        raise KeyError
    with Ranks() as ranks:
        assert ranks.gather(3) == [3]
