"""The plan of a run, made from its manifest and configuration before anything starts: where, how long, how much memory.

Nothing is loaded and no input is opened. A plan is an estimate: what it rests on is said with each figure.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cosmos_core.architecture import model_architecture
from cosmos_core.memory_mode import SAVINGS, Saving
from cosmos_core.memory_model import Part, WorkerLoad
from tasks.config import RunConfig, WorkerConfig
from tasks.durations import Duration, Work, duration, in_group
from tasks.gpus import Gpu
from tasks.manifest import Manifest
from tasks.placement import Demand, Placement, Stage, gpu_memory, place
from tasks.scenario import Scenario
from tasks.side_models import side_models
from tasks.versions import Variant

__all__ = ["RunPlan", "VariantPlan", "plan_run", "work_of"]

_DEFAULT_RANK = 16
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantPlan:
    """What is planned for the scenarios of one variant, which share a worker."""

    variant: Variant
    works: tuple[tuple[Work, int], ...]
    """What scenarios ask for, and how many ask for it."""
    demand: Demand
    gpus: tuple[Gpu, ...]
    config: WorkerConfig
    placement: Placement

    @property
    def num_scenarios(self) -> int:
        return sum(number for _, number in self.works)

    def duration(self, work: Work, group_size: int = 1) -> Duration:
        """How long one scenario takes; where kinds of GPU are mixed, on the slowest."""
        left_out = self.placement.left_out
        kinds: set[str | None] = {gpu.kind for index, gpu in enumerate(self.gpus) if index not in left_out}
        durations = [duration(work, kind) for kind in kinds or {None}]
        slowest = max(durations, key=lambda one: float("inf") if one.seconds is None else one.seconds)
        return in_group(slowest, work, group_size)

    def device_seconds(self, work: Work, group_size: int = 1) -> float | None:
        """Time of all devices that render it; None if unknown."""
        seconds = self.duration(work, group_size).seconds
        return None if seconds is None else seconds * group_size

    def placement_of(self, num_scenarios: int) -> Placement:
        """The placement of some of these scenarios: others may be finished already, or must not be generated."""
        return place(
            self.demand,
            num_scenarios,
            self.gpus,
            parallelism=self.config.parallelism,
            memory_mode=self.config.memory_mode,
            seconds=lambda size: self.duration(self.works[0][0], size).seconds,
            cpu_slots=self.config.cpu_workers,
        )

    def attempt(self, num_scenarios: int) -> Placement:
        """A placement against the estimate: as configured, or one model a GPU with every saving."""
        size = int(self.config.parallelism.partition(":")[2] or 1)
        stage = Stage(
            num_scenarios=num_scenarios, group_size=size, num_groups=len(self.gpus) // size, why="against the estimate"
        )
        mode = self.config.memory_mode
        return Placement(stages=(stage,), savings=tuple(SAVINGS) if mode == "auto" else mode)

    def memory(self) -> dict[str, tuple[Part, ...]]:
        """What is in the first GPU's memory, by phase, in the chosen mode."""
        size = self.placement.stages[0].group_size if self.placement.stages else 1
        return gpu_memory(self.demand, 0, savings=self.placement.savings, group_size=size)

    def describe(self) -> str:
        """The plan in one line."""
        times, savings = self.timetable(), ", ".join(self.placement.savings)
        parts = [
            f"{stage.num_scenarios} scenarios, {stage.num_groups} at a time on {stage.group_size} each"
            for stage in self.placement.stages
        ]
        parts.append(f"about {times[0]:.0f} s" if times else "unknown time")
        return f"{self.variant}: {self.placement.problem or '; '.join(parts)}{f'; saving {savings}' if savings else ''}"

    def timetable(self) -> tuple[float, float] | None:
        """Seconds from the first scenario to the last, and device-seconds; None if unknown or not placed."""
        left = [work for work, number in self.works for _ in range(number)]
        wall = devices = 0.0
        if not self.placement.stages:
            return None
        for stage in self.placement.stages:
            now, left = left[: stage.num_scenarios], left[stage.num_scenarios :]
            seconds = [self.duration(work, stage.group_size).seconds for work in now]
            known = [value for value in seconds if value is not None]
            if len(known) < len(seconds):
                return None
            wall += _makespan(known, stage.num_groups)
            devices += sum(known) * stage.group_size
        return wall, devices


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What is planned for a manifest."""

    manifest: str
    num_rows: int
    num_invalid: int
    gpus: tuple[Gpu, ...]
    variants: tuple[VariantPlan, ...]

    def of(self, variant: Variant) -> VariantPlan:
        """The plan of one variant of the manifest."""
        return next(plan for plan in self.variants if plan.variant == variant)

    @property
    def savings(self) -> tuple[Saving, ...]:
        """The savings of all variants together; those of guards and refiner hold for the whole run."""
        used = {saving for plan in self.variants for saving in plan.placement.savings}
        return tuple(saving for saving in SAVINGS if saving in used)

    def describe(self) -> list[str]:
        """A line for each variant, for a log."""
        return [variant.describe() for variant in self.variants]

    @property
    def num_placed(self) -> int:
        """Scenarios that can be rendered."""
        return sum(plan.num_scenarios for plan in self.variants if plan.placement.stages)


def plan_run(manifest: Manifest, config: RunConfig, gpus: Sequence[Gpu]) -> RunPlan:
    """Plan all valid scenarios of a manifest.

    Args:
        gpus: empty means the CPU.

    Raises:
        BadConfig: a group size that a model or the machine does not have.
    """
    by_variant: dict[Variant, list[Scenario]] = {}
    for scenario in manifest.rows:
        by_variant.setdefault(Variant.of(scenario), []).append(scenario)
    return RunPlan(
        manifest=manifest.uri,
        num_rows=manifest.num_rows,
        num_invalid=len(manifest.invalid),
        gpus=tuple(gpus),
        variants=tuple(_plan_variant(variant, rows, config, tuple(gpus)) for variant, rows in by_variant.items()),
    )


def work_of(scenario: Scenario, config: WorkerConfig) -> Work:
    """What a scenario asks of a GPU."""
    merged = config.merge_adapters and config.quantize == "none"
    return Work(
        model=scenario.model,
        resolution=scenario.resolution,
        geometry=scenario.geometry,
        num_steps=scenario.num_steps,
        guided=_guided(scenario),
        num_chunks=scenario.num_chunks,
        quantize=config.quantize,
        num_unmerged_adapters=0 if merged else len(scenario.adapters),
    )


def _plan_variant(
    variant: Variant, scenarios: Sequence[Scenario], config: RunConfig, gpus: tuple[Gpu, ...]
) -> VariantPlan:
    worker = config.worker
    works = Counter(work_of(scenario, worker) for scenario in scenarios)
    plan = VariantPlan(
        variant=variant,
        works=tuple(works.most_common()),
        demand=_demand(scenarios, config, on_gpu=bool(gpus)),
        gpus=gpus,
        config=worker,
        placement=Placement(),
    )
    return replace(plan, placement=plan.placement_of(len(scenarios)))


def _demand(scenarios: Sequence[Scenario], config: RunConfig, *, on_gpu: bool) -> Demand:
    """What a worker needs for the largest of the scenarios, with all their adapters loaded."""
    worker = config.worker
    dtype = worker.dtype if worker.dtype != "auto" else "bfloat16" if on_gpu else "float32"
    largest = max((scenario.geometry for scenario in scenarios), key=lambda geometry: geometry.num_tokens)
    names = sorted({use.name for scenario in scenarios for use in scenario.adapters})
    ranks = [config.adapters[name].rank if name in config.adapters else None for name in names]
    return Demand(
        load=WorkerLoad(
            model=model_architecture(scenarios[0].model),
            geometry=largest,
            num_conditional_frames=max(scenario.num_conditional_frames for scenario in scenarios),
            adapter_ranks=tuple(rank or _DEFAULT_RANK for rank in ranks),
            merge_adapters=worker.merge_adapters,
            quantize=worker.quantize,
            element_size=_BYTES[dtype],
            text_element_size=_BYTES[worker.text_dtype],
        ),
        # With guidance an even group shares fewer tokens: what needs more memory counts.
        guided=any(_guided(scenario) for scenario in scenarios),
        side=side_models(config) if on_gpu else (),
    )


def _guided(scenario: Scenario) -> bool:
    return bool(scenario.negative_prompt) and scenario.guidance != 0


def _makespan(seconds: Sequence[float], num_groups: int) -> float:
    """When the last of some scenarios is done, if every group takes the next one as soon as it is free."""
    free = [0.0] * num_groups
    for value in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + value)
    return max(free)
