"""The comparison of several processes with one runs, and its numbers are those of equal computations."""

from __future__ import annotations

import contextlib
import io
import json

import pytest

from benchmarks import context_parallel
from tests.process_gang import Gang


def report(model: str) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()) as complaint:
        code = context_parallel.main(["--model", model, "--device", "cpu", "--repeats", "1"])
    return code, printed.getvalue() + complaint.getvalue()


def test_rank_0_alone_prints_a_report():
    with Gang(3) as gang:
        (code, text), *others = gang.run(3, report, "micro")
    assert (code, others) == (0, [(0, "")] * 2)
    (variant,) = json.loads(text)["variants"]
    assert variant["tokens"] == 1344
    for name in ("forward", "guided"):
        measured = variant[name]
        assert measured["layout"] == "cfg 1 x ulysses 3"
        assert (measured["tokens_of_a_process"], measured["heads_of_a_process"]) == (448, 2)
        assert measured["relative_l2"] < 1e-5
        assert measured["efficiency"] == pytest.approx(measured["alone_s"] / measured["together_s"] / 3)


def test_one_process_is_compared_with_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    code, text = report("micro")
    assert code == 0
    assert json.loads(text)["variants"][0]["guided"]["relative_l2"] == 0


def test_an_illegal_number_of_processes_is_refused():
    with Gang(5) as gang:
        (code, text), *others = gang.run(5, report, "micro")
    assert code == 1
    assert "expected 1 | 2 | 3 | 4" in text
    assert others == [(1, "")] * 4
