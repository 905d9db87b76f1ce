"""The plan of a manifest: every valid scenario in it once, times that add up, and nothing loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cosmos_core.errors import BadConfig
from tasks.config import parse_config
from tasks.durations import Work
from tasks.gpus import imagined_gpus
from tasks.manifest import read_manifest
from tasks.run_plan import RunPlan, _makespan, plan_run
from tasks.versions import Variant

ROW = {"input": "a.png", "prompt": "A camera.", "model": "2B", "resolution": "720", "fps": 16}


def plan(tmp_path: Path, rows: list[dict[str, Any]], gpus: str = "8xH200", **config: Any) -> RunPlan:
    (tmp_path / "a.png").touch()
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps([ROW | {"scenario_id": f"s{number}"} | row for number, row in enumerate(rows)]))
    settings = parse_config(config, origin="test")
    return plan_run(read_manifest(str(path), settings.defaults), settings, imagined_gpus(gpus))


def test_scenarios_of_one_variant_are_planned_together(tmp_path):
    made = plan(tmp_path, [{}] * 3 + [{"model": "14B"}] * 2 + [{"seed": 9}, {"fps": 12}])
    assert (made.num_rows, made.num_invalid, made.num_placed) == (7, 1, 6)
    assert [(str(part.variant), part.num_scenarios) for part in made.variants] == [
        ("2B 720p 16fps", 4),
        ("14B 720p 16fps", 2),
    ]
    assert made.of(Variant(model="14B", resolution="720", fps=16)).num_scenarios == 2


def test_times_of_equal_scenarios(tmp_path):
    [part] = plan(tmp_path, [{}] * 16).variants
    one = 259.3
    assert part.timetable() == (pytest.approx(2 * one, abs=0.2), pytest.approx(16 * one, abs=2))
    [part] = plan(tmp_path, [{}] * 10).variants
    assert [stage.group_size for stage in part.placement.stages] == [1, 4]
    in_four = part.duration(part.works[0][0], 4).seconds
    assert in_four is not None
    assert part.timetable() == (pytest.approx(one + in_four, abs=0.2), pytest.approx(8 * one + 2 * 4 * in_four, abs=2))
    assert part.device_seconds(part.works[0][0], 4) == pytest.approx(4 * in_four)


def test_times_of_unequal_scenarios(tmp_path):
    [part] = plan(tmp_path, [{"num_steps": 8}] * 2 + [{}] * 3 + [{"negative_prompt": ""}], gpus="2xH200").variants
    assert [(work.num_steps, work.guided, number) for work, number in part.works] == [
        (35, True, 3),
        (8, True, 2),
        (35, False, 1),
    ]
    seconds = [part.duration(work).seconds for work, number in part.works for _ in range(number)]
    wall, devices = part.timetable() or (0, 0)
    assert devices == pytest.approx(sum(seconds))
    assert devices / 2 <= wall < devices


def test_a_makespan_is_that_of_taking_the_next_one_when_free():
    assert _makespan([5, 4, 3, 3, 3], 2) == 10
    assert _makespan([5], 4) == 5
    assert _makespan([1, 1, 1], 1) == 3


def test_unknown_seconds_stay_unknown(tmp_path):
    [part] = plan(tmp_path, [{}], gpus="2xRTX 4090").variants
    assert part.timetable() is None
    assert part.placement.stages
    assert part.device_seconds(part.works[0][0]) is None


def test_mixed_gpus_take_as_long_as_the_slowest(tmp_path):
    [mixed] = plan(tmp_path, [{}], gpus="1xB200,1xH100").variants
    [alone] = plan(tmp_path, [{}], gpus="1xH100").variants
    assert mixed.duration(mixed.works[0][0]) == alone.duration(alone.works[0][0])
    [unknown] = plan(tmp_path, [{}], gpus="1xB200,1xRTX 4090").variants
    assert unknown.timetable() is None
    # A card that is left out says nothing about the others.
    [large] = plan(tmp_path, [{"model": "14B"}], gpus="1xRTX 4090,1xH100").variants
    assert large.timetable() is not None


def test_what_cannot_be_placed_has_no_times(tmp_path):
    made = plan(tmp_path, [{"model": "14B"}, {}], gpus="1xL4")
    assert made.num_placed == 1
    assert made.variants[0].timetable() is None
    assert made.variants[0].placement.problem is not None


def test_the_demand_is_that_of_the_largest_scenario_with_all_adapters(tmp_path):
    rows = [
        {"aspect_ratio": "4:3", "adapters": ["its"]},
        {"aspect_ratio": "1:1", "num_conditional_frames": 5, "adapters": ["its", "other@production"]},
        {},
    ]
    config = {"adapters": {"its": {"path": "its.pt", "rank": 32}}, "worker": {"text_dtype": "bfloat16"}}
    [part] = plan(tmp_path, rows, **config).variants
    load = part.demand.load
    assert (load.geometry.width, load.num_conditional_frames) == (960, 5)
    assert load.adapter_ranks == (32, 16)
    assert (load.element_size, load.text_element_size) == (2, 2)


def test_the_placement_of_what_is_left(tmp_path):
    [part] = plan(tmp_path, [{}] * 100).variants
    assert part.placement_of(2).stages[0].group_size == 4
    assert part.placement_of(64).stages[0].num_scenarios == 64


def test_the_configuration_decides(tmp_path):
    [part] = plan(tmp_path, [{}] * 8, worker={"parallelism": "context:2"}).variants
    assert [(stage.group_size, stage.num_groups) for stage in part.placement.stages] == [(2, 4)]
    made = plan(tmp_path, [{}], worker={"memory_mode": ["refiner", "guardrail"]})
    assert made.savings == ("guardrail", "refiner")
    with pytest.raises(BadConfig, match="too few GPUs"):
        plan(tmp_path, [{}], gpus="1xH200", worker={"parallelism": "context:2"})


@pytest.mark.parametrize("wrong", ["context:0", "context:", "context:-1", "both"])
def test_a_wrong_parallelism_is_no_configuration(wrong):
    with pytest.raises(BadConfig, match=r"worker\.parallelism"):
        parse_config({"worker": {"parallelism": wrong}}, origin="test")


def test_an_unknown_saving_is_no_configuration():
    with pytest.raises(BadConfig, match=r"worker\.memory_mode"):
        parse_config({"worker": {"memory_mode": ["everything"]}}, origin="test")


def test_the_demo_on_a_cpu(repository):
    settings = parse_config({"defaults": {"guidance": 2.0}}, origin="test")
    made = plan_run(read_manifest(str(repository / "examples/demo/manifest.parquet"), settings.defaults), settings, ())
    assert made.num_placed == made.num_rows - made.num_invalid > 0
    for part in made.variants:
        assert part.placement.stages[0].why == "no GPU: the CPU"
        assert part.timetable() is not None


def test_works_are_told_apart_by_all_that_takes_time(tmp_path):
    rows = [{"num_chunks": 2}, {"aspect_ratio": "9:16"}, {"adapters": ["a", "b"]}, {"seed": 4}]
    [part] = plan(tmp_path, rows, worker={"quantize": "fp8"}).variants
    works = [work for work, _ in part.works]
    assert all(isinstance(work, Work) for work in works)
    assert len(works) == 4
    assert sorted(work.num_unmerged_adapters for work in works) == [0, 0, 0, 2]


def test_a_plan_needs_no_torch():
    script = "import sys, tasks.run_plan; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=120).returncode == 0
