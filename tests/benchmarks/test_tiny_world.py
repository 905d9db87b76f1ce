"""The program from a folder of clips to tables and JSON."""

from __future__ import annotations

import json

from benchmarks.stand_in_clips import write_stand_ins
from benchmarks.tiny_world import main, steps_curves, strength_curve
from tests.benchmarks.scenes import SEEDS


def row(strengths: dict[str, float], num_steps: int = 35) -> dict[str, object]:
    measured = ("clips", "incident", "incident_probability", "first_frame_psnr", "unsteadiness")
    measured += ("motion", "motion_ratio", "speed", "all_steps_psnr")
    case = {"name": f"{strengths} {num_steps}", "family": None, "strengths": strengths, "num_steps": num_steps}
    return case | dict.fromkeys(measured, 1.0)


def test_curves_leave_other_cases_out():
    table = [
        row({"collision": 2.0}),
        row({"collision": 0.5}),
        row({"collision": 2.0}, 20),
        row({"collision": 0.7, "rear_end": 0.7}),
        row({}),
    ]
    assert [point["strength"] for point in strength_curve(table)] == [0.5, 2.0]
    assert [point["num_steps"] for point in steps_curves(table)] == [20, 35]


def test_stand_ins_are_measured_from_their_files(tmp_path, capsys):
    write_stand_ins(tmp_path / "clips", [SEEDS[2]])
    main([str(tmp_path / "clips"), "--workers", "1", "--json", str(tmp_path / "out.json")])
    about = json.loads((tmp_path / "out.json").read_text())
    cases = {case["name"]: case for case in about["cases"]}
    assert len(about["clips"]) == len(cases) == 6
    assert cases["simulator"]["first_frame_psnr"] > cases["degraded"]["first_frame_psnr"] > 20
    assert cases["simulator"]["motion_correlation"] > 0.95
    assert cases["degraded"]["unsteadiness"] > cases["simulator"]["unsteadiness"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in cases)
