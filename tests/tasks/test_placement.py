"""Placement: every scenario once, no GPU twice, nothing where it does not fit, and the cheapest way of what fits."""

from __future__ import annotations

from typing import Any

import pytest

from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadConfig
from cosmos_core.geometry import video_geometry
from cosmos_core.memory_mode import SAVINGS
from cosmos_core.memory_model import GIB, WorkerLoad
from tasks.gpus import Gpu, imagined_gpus
from tasks.placement import Demand, Placement, fitting, needed_bytes, place, ulysses
from tasks.side_models import SideModel

GB = 10**9


def demand(model: str = "2B", resolution: str = "720", fps: int = 16, **changes: Any) -> Demand:
    """With one adapter of rank 16, guided, nothing beside the worker."""
    geometry = video_geometry(model=model, resolution=resolution, fps=fps, aspect_ratio="16:9")
    load = {key: changes.pop(key) for key in ("quantize", "adapter_ranks") if key in changes}
    return Demand(load=WorkerLoad(model=MODELS[model], geometry=geometry, **{"adapter_ranks": (16,)} | load), **changes)


def stages(placement: Placement) -> list[tuple[int, int, int]]:
    return [(stage.num_scenarios, stage.group_size, stage.num_groups) for stage in placement.stages]


def minutes(size: int) -> float:
    return 260 / size


@pytest.mark.parametrize(
    ("num_scenarios", "expected"),
    [
        (800, [(800, 1, 8)]),
        (8, [(8, 1, 8)]),
        (5, [(5, 1, 8)]),  # three GPUs would be left, which is no group for each of five
        (4, [(4, 2, 4)]),
        (3, [(3, 2, 4)]),
        (1, [(1, 8, 1)]),
        (10, [(8, 1, 8), (2, 4, 2)]),
        (13, [(13, 1, 8)]),
    ],
)
def test_one_model_a_gpu_and_groups_where_scenarios_are_fewer(num_scenarios, expected):
    placement = place(demand(), num_scenarios, imagined_gpus("8xH200"), seconds=minutes)
    assert stages(placement) == expected
    assert placement.savings == ()


def test_a_group_is_no_larger_than_what_makes_it_faster():
    """Seven of 16 heads' processes wait as often as six do, of which two halves take a branch of guidance each."""
    assert stages(place(demand(), 1, imagined_gpus("7xH200"))) == [(1, 6, 1)]
    assert stages(place(demand(), 1, imagined_gpus("3xH200"))) == [(1, 3, 1)]


def test_groups_at_the_end_must_win_back_the_restart():
    for seconds in (lambda size: None, lambda size: 40 / size):
        assert stages(place(demand(), 10, imagined_gpus("8xH200"), seconds=seconds)) == [(10, 1, 8)]
    # At the beginning there is nothing to restart.
    assert stages(place(demand(), 2, imagined_gpus("8xH200"))) == [(2, 4, 2)]


@pytest.mark.parametrize("model", ["2B", "14B"])
@pytest.mark.parametrize("gpus", ["1xH200", "3xH200", "8xH200", "8xL40S", "4xL4"])
@pytest.mark.parametrize("num_scenarios", [1, 2, 7, 64])
@pytest.mark.parametrize("parallelism", ["auto", "data", "context:1", "context:3"])
def test_every_scenario_once_and_no_gpu_twice(model, gpus, num_scenarios, parallelism):
    cards = imagined_gpus(gpus)
    if parallelism == "context:3" and len(cards) < 3:
        with pytest.raises(BadConfig, match="too few GPUs"):
            place(demand(model), num_scenarios, cards, parallelism=parallelism)
        return
    placement = place(demand(model), num_scenarios, cards, parallelism=parallelism, seconds=minutes)
    assert (placement.problem is None) == bool(placement.stages)
    for stage in placement.stages:
        assert stage.num_groups >= 1
        assert stage.num_groups * stage.group_size <= len(cards)
        needed = needed_bytes(demand(model), 0, savings=placement.savings, group_size=stage.group_size)
        assert needed <= cards[0].memory_bytes
        assert parallelism == "auto" or stage.group_size == int(
            parallelism.removeprefix("context:").replace("data", "1")
        )
    assert not placement.stages or sum(stage.num_scenarios for stage in placement.stages) == num_scenarios


def test_the_cheapest_savings_that_fit():
    assert place(demand("14B"), 8, imagined_gpus("8xH100")).savings == ()
    assert place(demand("14B"), 8, imagined_gpus("8xL40S")).savings == ("base",)
    assert place(demand(), 8, imagined_gpus("16GB")).savings == ("strips", "text")
    assert place(demand(), 8, imagined_gpus("24GB"), memory_mode=("text",)).savings == ("text",)


def test_memory_forces_groups():
    eight_bits = demand("14B", quantize="fp8")
    placement = place(eight_bits, 100, imagined_gpus("8x24GB"))
    assert stages(placement) == [(100, 3, 2)]
    assert placement.stages[0].why == "the memory of one GPU does not suffice"
    # Two GPUs with guidance compute a branch each, with all tokens: that saves no memory.
    assert (ulysses(eight_bits, 2), ulysses(eight_bits, 3), ulysses(eight_bits, 4)) == (1, 3, 2)
    refused = place(eight_bits, 100, imagined_gpus("8x24GB"), parallelism="data")
    assert refused.problem is not None
    assert "groups of 3 GPUs would fit" in refused.problem


def test_what_does_not_fit_says_how_much_is_missing():
    placement = place(demand("14B"), 3, imagined_gpus("1x32GB"))
    assert placement.stages == ()
    assert placement.problem is not None
    assert "needs 41.6 GiB a GPU with every saving" in placement.problem
    assert "the largest has 29.8 GiB" in placement.problem
    assert "fp8 would fit, an approximation" in placement.problem
    explicit = place(demand("14B"), 3, imagined_gpus("1xL40S"), memory_mode=())
    assert explicit.problem is not None
    assert "in this memory mode" in explicit.problem


def test_a_gpu_that_is_too_small_is_left_out():
    placement = place(demand("14B"), 6, imagined_gpus("1xL4,3xH200"))
    assert stages(placement) == [(6, 1, 3)]
    assert placement.left_out == (0,)


def test_guard_models_move_to_the_cpu_before_the_text_encoder_does():
    guard = SideModel(name="guard", saving="guardrail", gpu=0, num_bytes=17 * GIB)
    refiner = SideModel(name="refiner", saving="refiner", gpu=0, num_bytes=18 * GIB)
    assert place(demand(side=(guard, refiner)), 9, imagined_gpus("1xH100")).savings == ()
    assert place(demand(side=(guard, refiner)), 9, imagined_gpus("1x32GB")).savings == ("guardrail",)
    assert place(demand(side=(refiner,)), 9, imagined_gpus("1x16GB")).savings == ("strips", "text", "refiner")
    # The guard is on the first GPU alone, and the refiner leaves before the workers come.
    beside = demand(side=(guard, refiner))
    assert needed_bytes(beside, 1, savings=()) == needed_bytes(demand(), 1, savings=())
    assert needed_bytes(beside, 0, savings=()) - needed_bytes(beside, 1, savings=()) == 17 * GIB


def test_groups_that_the_model_or_the_machine_does_not_have_are_refused():
    with pytest.raises(BadConfig, match=r"got 17, expected 1 \| 2 \| .* \| 16\b"):
        place(demand(), 3, imagined_gpus("20xH200"), parallelism="context:17")
    with pytest.raises(BadConfig, match="too few GPUs: got 2, expected at least 4"):
        place(demand(), 3, imagined_gpus("2xH200"), parallelism="context:4")
    with pytest.raises(BadConfig, match="too few GPUs: got 1"):
        place(demand("tiny", "112", 10), 3, (), parallelism="context:2")


def test_without_a_gpu_there_is_the_cpu():
    tiny = demand("tiny", "112", 10)
    assert stages(place(tiny, 7, ())) == [(7, 1, 1)]
    assert stages(place(tiny, 7, (), cpu_slots=2)) == [(7, 1, 2)]
    assert stages(place(tiny, 7, (), cpu_slots=4, parallelism="context:2")) == [(7, 2, 2)]
    assert place(tiny, 7, (), memory_mode=("strips",)).savings == ("strips",)


def test_a_gpu_of_unknown_memory_is_used_without_savings():
    placement = place(demand("14B"), 4, [Gpu(name="?", memory_bytes=None)])
    assert (stages(placement), placement.savings) == ([(4, 1, 1)], ())


@pytest.mark.parametrize(
    ("model", "quantize", "expected"),
    [
        ("2B", "none", {24: (1, ()), 32: (1, ()), 48: (1, ()), 80: (1, ()), 141: (1, ())}),
        ("14B", "none", {24: None, 32: None, 48: (1, ("base",)), 80: (1, ()), 141: (1, ())}),
        ("14B", "fp8", {24: (3, ("strips", "loading")), 32: (1, ()), 48: (1, ()), 80: (1, ()), 141: (1, ())}),
    ],
)
def test_what_fits_at_720p(model, quantize, expected):
    """The table of docs/planning.md."""
    found = {size: fitting(demand(model, quantize=quantize), size * GB, num_gpus=8) for size in expected}
    assert found == expected


def test_more_memory_never_needs_more_savings():
    order = list(SAVINGS)
    costs = []
    for size in range(12, 145, 4):
        found = fitting(demand("2B"), size * GB)
        costs.append(sum(1 << order.index(saving) for saving in found[1]) if found else 1 << len(order))
    assert costs == sorted(costs, reverse=True)
    assert costs[0] > costs[-1] == 0
