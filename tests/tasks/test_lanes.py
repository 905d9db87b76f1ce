"""Lanes: one task at a time each, first come first served, and nothing waits for ever when the run is stopped."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest

from cosmos_core.errors import Cancelled
from tasks.config import WorkerConfig
from tasks.devices import Device
from tasks.lanes import LanePool


def pool(tmp_path, gpus=()) -> LanePool:
    config = WorkerConfig(device="cuda" if gpus else "cpu", gpus=tuple(gpus) or None)
    return LanePool(config, tmp_path)


def test_there_is_one_lane_for_each_gpu_or_one_for_the_cpu(tmp_path):
    assert len(pool(tmp_path)) == 1
    assert len(pool(tmp_path, gpus=("0", "1", "GPU-3"))) == 3


def test_devices_that_render_together_are_one_lane(tmp_path):
    devices = [Device(name=f"gpu{n}", key=f"GPU-{n}", visible=f"GPU-{n}") for n in range(4)]
    config = WorkerConfig()
    lanes = LanePool(config, tmp_path, groups=[tuple(devices[:2]), tuple(devices[2:])])
    assert len(lanes) == 2
    with lanes.lease(SimpleNamespace()) as lane:
        assert (lane.name, [device.visible for device in lane.devices]) == ("gpu0+gpu1", ["GPU-0", "GPU-1"])


def test_a_lane_is_leased_to_one_task_at_a_time_in_order(tmp_path):
    lanes, order, busy, overlaps = pool(tmp_path), [], [], []

    def work(number: int) -> None:
        with lanes.lease(SimpleNamespace()) as lane:
            overlaps.append(len(busy))
            busy.append(lane)
            order.append(number)
            time.sleep(0.02)
            busy.pop()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert order == list(range(8))
    assert overlaps == [0] * 8


def test_a_warm_lane_is_preferred(tmp_path):
    lanes = pool(tmp_path, gpus=("0", "1"))
    wanted = SimpleNamespace(name="wanted")
    with lanes.lease(wanted) as first:
        first.plan = wanted
    for _ in range(3):
        with lanes.lease(wanted) as again:
            assert again is first
    with lanes.lease(SimpleNamespace()) as other:
        assert other is not first


def test_closing_wakes_those_who_wait(tmp_path):
    lanes, outcomes = pool(tmp_path), []

    def wait() -> None:
        try:
            with lanes.lease(SimpleNamespace()):
                outcomes.append("leased")
        except Cancelled:
            outcomes.append("cancelled")

    with lanes.lease(SimpleNamespace()):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        lanes.close()
        thread.join(timeout=5)
    assert outcomes == ["cancelled"]
    with pytest.raises(Cancelled), lanes.lease(SimpleNamespace()):
        pass
