"""Shards: every job once, on devices that the plan chose, in the memory mode that it chose."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from cosmos_core.memory_mode import SAVINGS
from tasks.config import parse_config
from tasks.devices import Device
from tasks.gpus import imagined_gpus
from tasks.lanes import LanePool, WorkerPlan
from tasks.manifest import read_manifest
from tasks.preparation import Shard, plan_shards
from tasks.run_plan import plan_run
from tasks.versions import FileVersion, ModelVersion, Variant

ROW = {"input": "a.png", "prompt": "A camera.", "model": "2B", "resolution": "720", "fps": 16}


def shards(tmp_path: Path, rows: list[dict[str, Any]], gpus: str, **config: Any) -> list[Shard]:
    (tmp_path / "a.png").touch()
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps([ROW | {"scenario_id": f"s{number}"} | row for number, row in enumerate(rows)]))
    settings = parse_config(config, origin="test")
    read = read_manifest(str(manifest), settings.defaults)
    cards = imagined_gpus(gpus)
    devices = tuple(Device(name=f"gpu{n}", key=f"GPU-{n}", visible=f"GPU-{n}") for n in range(len(cards)))
    run: Any = SimpleNamespace(plan=plan_run(read, settings, cards), devices=devices)
    jobs: Any = [SimpleNamespace(scenario=scenario) for scenario in read.rows]
    with disable_run_logger(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.preparation.Shard", Shard.model_construct)  # jobs are stand-ins
        return plan_shards(run, jobs)


def names(shard: Shard) -> list[list[str]]:
    return [[device.name for device in group] for group in shard.groups]


def test_waves_come_before_groups(tmp_path):
    first, last = shards(tmp_path, [{}] * 6, "4xH200")
    assert (len(first.jobs), names(first)) == (4, [["gpu0"], ["gpu1"], ["gpu2"], ["gpu3"]])
    assert (len(last.jobs), names(last)) == (2, [["gpu0", "gpu1"], ["gpu2", "gpu3"]])
    ids = [job.scenario.scenario_id for shard in (first, last) for job in shard.jobs]
    assert sorted(ids) == [f"s{number}" for number in range(6)]


def test_each_variant_has_its_own_memory_mode(tmp_path):
    rows = [{"adapters": ["its"]}] * 2 + [{"model": "14B", "adapters": ["its"]}] * 2
    small, large = shards(tmp_path, rows, "2xL40S", adapters={"its": {"path": "its.pt"}})
    assert (small.savings, large.savings) == ((), ("base",))


def test_a_gpu_that_is_too_small_gets_nothing(tmp_path):
    [shard] = shards(tmp_path, [{"model": "14B"}] * 4, "1xL4,2xH200")
    assert names(shard) == [["gpu1"], ["gpu2"]]


def test_what_should_not_fit_is_tried_with_every_saving(tmp_path):
    """The plan is an estimate; the scenario itself says whether it was right."""
    [shard] = shards(tmp_path, [{"model": "14B"}] * 3, "2xL4")
    assert (len(shard.jobs), shard.savings, names(shard)) == (3, tuple(SAVINGS), [["gpu0"], ["gpu1"]])
    [shard] = shards(tmp_path, [{"model": "14B"}] * 3, "2xL4", worker={"memory_mode": [], "parallelism": "context:2"})
    assert (shard.savings, names(shard)) == ((), [["gpu0", "gpu1"]])


def test_a_worker_is_told_its_own_savings_and_no_others(tmp_path):
    file = FileVersion(path="x", sha256="0" * 64, num_bytes=1)
    variant = Variant(model="2B", resolution="720", fps=16)
    model = ModelVersion(variant=variant, base=file, vae=file, text_encoder=file)
    plan = WorkerPlan(model=model, adapters=(), prompts=(), savings=tuple(SAVINGS), num_devices=2)
    devices = tuple(Device(name=f"gpu{n}", key=f"GPU-{n}", visible=f"GPU-{n}") for n in range(2))
    with (
        LanePool(parse_config({}, origin="test").worker, tmp_path, groups=[devices]) as lanes,
        lanes.lease(plan) as lane,
    ):
        spec = lane._spec(plan)
    assert spec["savings"] == ("base", "strips", "loading", "text")
    assert spec["device"] == "cuda"
