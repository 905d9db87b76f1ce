"""Which GPUs work on what: one model a GPU, or groups of GPUs that render one video together, and in which memory mode.

One model a GPU renders most videos an hour, so it is the rule. Groups are for what it cannot do: when one GPU's memory
does not suffice, and when there are fewer scenarios than GPUs, at the start or at the end of a run. Of the memory modes
the cheapest that fits is taken: savings are tried in the order of their cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cosmos_core.errors import BadConfig
from cosmos_core.group_layout import check_group_size, group_layout, legal_group_sizes
from cosmos_core.memory_mode import SAVINGS, Saving
from cosmos_core.memory_model import GIB, Basis, Part, WorkerLoad, peak_bytes, worker_memory
from tasks.durations import group_speed
from tasks.gpus import Gpu
from tasks.side_models import SideModel

__all__ = [
    "Demand",
    "MemoryMode",
    "Placement",
    "Stage",
    "fitting",
    "gpu_memory",
    "needed_bytes",
    "place",
    "ulysses",
]

MemoryMode = Literal["auto"] | tuple[Saving, ...]
GroupSeconds = Callable[[int], float | None]
"""Seconds of one scenario on a group of that many GPUs, if known."""

RESERVE_BYTES = GIB * 3 // 2
"""Assumed: CUDA context, libraries, and what the allocator cannot use."""
_RESTART_S = 60.0
"""Assumed: starting workers again as groups, which the last scenarios of a run must win back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the scenarios of one variant ask of a GPU."""

    load: WorkerLoad
    guided: bool = True
    side: tuple[SideModel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Scenarios that are rendered in one way."""

    num_scenarios: int
    group_size: int
    """GPUs that render one video together."""
    num_groups: int
    """Videos that are rendered at the same time."""
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the scenarios of one variant are rendered; without stages they cannot be."""

    stages: tuple[Stage, ...] = ()
    savings: tuple[Saving, ...] = ()
    left_out: tuple[int, ...] = ()
    """GPUs that are too small, by their number."""
    problem: str | None = None


def place(
    demand: Demand,
    num_scenarios: int,
    gpus: Sequence[Gpu],
    *,
    parallelism: str = "auto",
    memory_mode: MemoryMode = "auto",
    seconds: GroupSeconds = lambda size: None,
    cpu_slots: int = 1,
) -> Placement:
    """Choose a placement.

    Args:
        demand: what the scenarios ask for.
        num_scenarios: of this variant.
        gpus: empty means the CPU.
        parallelism: `auto`, `data` or `context:N`.
        memory_mode: `auto`, or exactly these savings.
        seconds: of a scenario, to see whether groups pay at the end of a run.
        cpu_slots: workers of a machine without a GPU.

    Raises:
        BadConfig: a group size that the model or the machine does not have.
    """
    wanted = int(parallelism.removeprefix("context:")) if parallelism.startswith("context:") else None
    if wanted is not None:
        _require_group(demand, wanted, len(gpus) or cpu_slots)
    if not gpus:
        size = wanted or 1
        stage = _stage(num_scenarios, size, cpu_slots, "no GPU: the CPU")
        return Placement(stages=(stage,), savings=() if memory_mode == "auto" else memory_mode)
    sizes = [wanted] if wanted else [1] if parallelism == "data" else _sizes(demand, len(gpus))
    for size in sizes:
        if found := _memory_of(demand, gpus, size, memory_mode):
            savings, fits = found
            left_out = tuple(index for index in range(len(gpus)) if index not in fits)
            if wanted or size > 1:
                why = "as configured" if wanted else "the memory of one GPU does not suffice"
                stages: tuple[Stage, ...] = (_stage(num_scenarios, size, len(fits), why),)
            elif parallelism == "data":
                stages = (_stage(num_scenarios, 1, len(fits), "as configured"),)
            else:
                stages = _waves_and_rest(demand, num_scenarios, len(fits), seconds)
            return Placement(stages=stages, savings=savings, left_out=left_out)
    return Placement(problem=_problem(demand, gpus, sizes, memory_mode))


def fitting(demand: Demand, memory_bytes: int, *, num_gpus: int = 1) -> tuple[int, tuple[Saving, ...]] | None:
    """Smallest group of such GPUs, and the savings, with which it fits; None if there is none."""
    gpus = [Gpu(name="imagined", memory_bytes=memory_bytes)] * num_gpus
    for size in _sizes(demand, num_gpus):
        if found := _memory_of(demand, gpus, size, "auto"):
            return size, found[0]
    return None


def ulysses(demand: Demand, group_size: int) -> int:
    """GPUs of a group that share the tokens of one forward; with guidance half of them take the other branch."""
    return group_layout(demand.load.model.dit, group_size, guided=demand.guided).ulysses


def gpu_memory(
    demand: Demand, gpu: int, *, savings: Sequence[Saving], group_size: int = 1
) -> dict[str, tuple[Part, ...]]:
    """What is in one GPU's memory, by phase; guard models and the reserve are in all of them.

    Args:
        demand: what is held there.
        gpu: its number.
        savings: the memory mode.
        group_size: GPUs that render one video together.
    """
    models = [model for model in demand.side if model.gpu == gpu and model.saving not in savings]
    parts = {
        saving: tuple(
            Part(name=model.name, num_bytes=model.num_bytes, basis=Basis.FILE)
            for model in models
            if model.saving == saving and model.num_bytes is not None
        )
        for saving in ("refiner", "guardrail")
    }
    phases = worker_memory(demand.load, savings=savings, ulysses=ulysses(demand, group_size))
    if parts["refiner"]:  # it has left before a worker loads anything
        phases = {"refine": parts["refiner"]} | phases
    always = (*parts["guardrail"], Part(name="reserve", num_bytes=RESERVE_BYTES, basis=Basis.ASSUMED))
    return {phase: (*of_phase, *always) for phase, of_phase in phases.items()}


def needed_bytes(demand: Demand, gpu: int, *, savings: Sequence[Saving], group_size: int = 1) -> int:
    """Memory that one GPU needs at the worst moment, guard models and reserve included."""
    return peak_bytes(gpu_memory(demand, gpu, savings=savings, group_size=group_size))


def _waves_and_rest(demand: Demand, num_scenarios: int, num_gpus: int, seconds: GroupSeconds) -> tuple[Stage, ...]:
    """One model a GPU while there are as many scenarios as GPUs, then groups for the rest where they pay."""
    rest = num_scenarios % num_gpus
    size = _fastest(demand, num_gpus // rest) if rest else 1
    if size == 1 or (rest < num_scenarios and not _pays(size, seconds)):
        return (_stage(num_scenarios, 1, num_gpus, "most videos an hour"),)
    groups = _stage(rest, size, num_gpus, "fewer scenarios than GPUs")
    if rest == num_scenarios:
        return (groups,)
    return (_stage(num_scenarios - rest, 1, num_gpus, "most videos an hour"), replace(groups, why="the last scenarios"))


def _fastest(demand: Demand, num_gpus: int) -> int:
    """The group of at most so many GPUs that is fastest; where the heads do not divide, more can be slower."""
    model, guided = demand.load.model.name, demand.guided
    return max(_sizes(demand, num_gpus), key=lambda size: (group_speed(model, size, guided=guided), -size))


def _pays(size: int, seconds: GroupSeconds) -> bool:
    alone, together = seconds(1), seconds(size)
    return alone is not None and together is not None and alone - together > _RESTART_S


def _stage(num_scenarios: int, size: int, num_gpus: int, why: str) -> Stage:
    return Stage(num_scenarios=num_scenarios, group_size=size, num_groups=num_gpus // size, why=why)


def _sizes(demand: Demand, num_gpus: int) -> list[int]:
    return [size for size in legal_group_sizes(demand.load.model.dit) if size <= num_gpus]


def _require_group(demand: Demand, size: int, num_gpus: int) -> None:
    check_group_size(demand.load.model.dit, size)
    if size > num_gpus:
        raise BadConfig(
            f"worker.parallelism is context:{size}, and there are too few GPUs",
            got=num_gpus,
            expected=f"at least {size}",
            fix="Use a smaller group, or auto",
        )


def _memory_of(
    demand: Demand, gpus: Sequence[Gpu], size: int, mode: MemoryMode
) -> tuple[tuple[Saving, ...], list[int]] | None:
    """The cheapest savings with which most GPUs can be used, and these; None if not even one group can."""
    best: tuple[tuple[Saving, ...], list[int]] | None = None
    for savings in _modes(mode):
        fits = [
            index
            for index, gpu in enumerate(gpus)
            if gpu.memory_bytes is None
            or needed_bytes(demand, index, savings=savings, group_size=size) <= gpu.memory_bytes
        ]
        if len(fits) >= size and (best is None or len(fits) > len(best[1])):
            best = (savings, fits)
    return best


def _modes(mode: MemoryMode) -> Iterator[tuple[Saving, ...]]:
    """Sets of savings to try: any number of cheap ones goes before a dearer one."""
    if mode != "auto":
        yield mode
        return
    names = list(SAVINGS)
    for mask in range(2 ** len(names)):
        yield tuple(name for bit, name in enumerate(names) if mask >> bit & 1)


def _problem(demand: Demand, gpus: Sequence[Gpu], sizes: Sequence[int], mode: MemoryMode) -> str:
    savings = tuple(SAVINGS) if mode == "auto" else mode
    needed = min(needed_bytes(demand, 0, savings=savings, group_size=size) for size in sizes)
    largest = max(gpu.memory_bytes or 0 for gpu in gpus)
    text = f"needs {needed / GIB:.1f} GiB a GPU {'with every saving' if mode == 'auto' else 'in this memory mode'}"
    text += f", and the largest has {largest / GIB:.1f} GiB"
    if group := next((size for size in _sizes(demand, len(gpus)) if _memory_of(demand, gpus, size, mode)), None):
        return f"{text}; groups of {group} GPUs would fit (worker.parallelism: auto)"
    if demand.load.quantize == "none":
        smaller = replace(demand, load=replace(demand.load, quantize="fp8"))
        if any(_memory_of(smaller, gpus, size, mode) for size in sizes):
            return f"{text}; worker.quantize: fp8 would fit, an approximation"
    return text
