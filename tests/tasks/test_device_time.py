"""Planned against actual device time, from results rows."""

from __future__ import annotations

from typing import Any

from tasks.device_time import device_time


def row(used: float | None, planned: float | None = None, *, reused: bool = False) -> dict[str, Any]:
    return {"device_seconds": used, "planned_device_seconds": planned, "reused": reused}


def test_used_next_to_planned():
    assert device_time([row(90.0, 100.0)]) == "90.0 s for 1 video, planned 1 min 40 s (-10%)"
    assert device_time([row(300.0, 250.0), row(300.0, 250.0)]) == "10 min 00 s for 2 videos, planned 8 min 20 s (+20%)"
    assert device_time([row(7200.0, 3600.0)]) == "2 h 00 min for 1 video, planned 1 h 00 min (+100%)"


def test_what_this_run_did_not_render_does_not_count():
    rows = [row(50.0, 50.0), row(50.0, 10.0, reused=True), row(None), {"reused": False}]
    assert device_time(rows) == "50.0 s for 1 video, planned 50.0 s (+0%)"
    assert device_time([row(None), row(3.0, 3.0, reused=True)]) is None


def test_an_unknown_plan_is_unknown_and_a_partial_one_is_compared_with_its_part():
    assert device_time([row(3.0)]) == "3.0 s for 1 video, plan unknown"
    assert device_time([row(30.0, 20.0), row(5.0)]) == "35.0 s for 2 videos, planned 20.0 s for 1 of them (+50%)"
