"""The tables of a plan, made to fit 80 columns."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cosmos_core.memory_mode import SAVINGS
from cosmos_core.memory_model import GIB, Part
from tasks.durations import Duration, DurationBasis
from tasks.gpus import Gpu
from tasks.placement import Stage, fitting
from tasks.run_plan import RunPlan, VariantPlan

__all__ = ["CARDS_GB", "fits", "print_plan"]

CARDS_GB = (24, 32, 48, 80, 141)
_CARDS_IN_A_MACHINE = 8


def print_plan(made: RunPlan, console: Console) -> None:
    """The plan as tables."""
    rows = f"{made.num_rows} rows, {made.num_invalid} invalid" if made.num_invalid else f"{made.num_rows} rows"
    console.print(Text(f"{made.manifest}: {rows}; on {_machine(made.gpus)}"), soft_wrap=True)
    if not made.variants:
        return
    console.print(_placement_table(made))
    for variant in made.variants:
        if variant.gpus:
            console.print(_memory_table(variant))
    if made.gpus:
        console.print(_cards_table(made))
    for line in _notes(made):
        console.print(line)


def _machine(gpus: tuple[Gpu, ...]) -> str:
    if not gpus:
        return "the CPU"
    sizes = [f"{gpu.memory_bytes / GIB:.1f} GiB" if gpu.memory_bytes else "unknown memory" for gpu in gpus]
    cards = [f"{gpu.name} ({size})" for gpu, size in zip(gpus, sizes, strict=True)]
    return ", ".join(f"{cards.count(card)} x {card}" for card in dict.fromkeys(cards))


def _placement_table(made: RunPlan) -> Table:
    device = "GPU" if made.gpus else "CPU"
    times = [variant.timetable() for variant in made.variants]
    known = [time for time in times if time is not None]
    wall, used = _times((sum(a for a, _ in known), sum(b for _, b in known)) if len(known) == len(times) else None)
    table = Table(title="Placement", title_justify="left", show_footer=len(times) > 1)
    table.add_column("variant", "in all", no_wrap=True)
    table.add_column("rows", str(sum(variant.num_scenarios for variant in made.variants)), justify="right")
    table.add_column(f"{device}s\neach", justify="right")
    table.add_column("at\nonce", justify="right")
    table.add_column("seconds\neach", justify="right")
    table.add_column("time", wall, justify="right", no_wrap=True)
    table.add_column(f"{device}-\nhours", used, justify="right", no_wrap=True)
    for variant, time in zip(made.variants, times, strict=True):
        stages = variant.placement.stages
        if not stages:
            no = Text("does not fit", style="red")
            table.add_row(str(variant.variant), str(variant.num_scenarios), "", "", no, "", "")
        for stage in stages:
            first = stage is stages[0]
            numbers = (str(stage.num_scenarios), str(stage.group_size), str(stage.num_groups))
            ends = _times(time) if first else ("", "")
            table.add_row(str(variant.variant) * first, *numbers, _seconds(variant, stage), *ends)
    return table


def _times(times: tuple[float, float] | None) -> tuple[str, str]:
    return (_clock(times[0]), f"{times[1] / 3600:.2f}") if times else ("unknown", "unknown")


def _seconds(variant: VariantPlan, stage: Stage) -> str:
    durations = [variant.duration(work, stage.group_size) for work, _ in variant.works]
    if any(duration.seconds is None for duration in durations):
        return "unknown"
    mark = "~" if any(duration.basis is DurationBasis.SCALED for duration in durations) else ""
    low, high = (function(duration.seconds or 0.0 for duration in durations) for function in (min, max))
    return f"{mark}{low:.3g}" if low == high else f"{mark}{low:.3g} to {high:.3g}"


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _memory_table(variant: VariantPlan) -> Table:
    phases = variant.memory()
    table = Table(title=f"Memory of a GPU, GiB: {variant.variant}", title_justify="left", show_footer=True)
    table.add_column("", footer="in all", overflow="fold")
    for phase, parts in phases.items():
        table.add_column(phase, footer=_gib(sum(part.num_bytes for part in parts)), justify="right")
    table.add_column("how known")
    everything = {part.name: part for parts in phases.values() for part in parts}
    common = [name for name in everything if all(_bytes_of(name, parts) is not None for parts in phases.values())]
    for name in [*(name for name in everything if name not in common), *common]:
        cells = [_gib(_bytes_of(name, parts)) for parts in phases.values()]
        table.add_row(name, *cells, str(everything[name].basis))
    return table


def _bytes_of(name: str, parts: tuple[Part, ...]) -> int | None:
    return next((part.num_bytes for part in parts if part.name == name), None)


def _gib(num_bytes: int | None) -> str:
    if num_bytes is None:
        return ""
    return f"{num_bytes / GIB:.1f}" if num_bytes >= GIB / 10 else "<0.1"


def _cards_table(made: RunPlan) -> Table:
    title = f"What fits on cards of that size, {_CARDS_IN_A_MACHINE} in a machine"
    table = Table("variant", *(f"{size} GB" for size in CARDS_GB), title=title, title_justify="left")
    for variant in made.variants:
        table.add_row(str(variant.variant), *(fits(variant, size) for size in CARDS_GB))
    return table


def fits(variant: VariantPlan, card_gb: int) -> str:
    """Whether a variant fits on cards of that size, and how."""
    found = fitting(variant.demand, card_gb * 10**9, num_gpus=_CARDS_IN_A_MACHINE)
    if found is None:
        return "no"  # also with every saving and in every group
    size, savings = found
    parts = [f"groups of {size}"] * (size > 1) + list(savings)
    return f"with {', '.join(parts)}" if parts else "yes"


def _notes(made: RunPlan) -> list[Text]:
    notes = [Text(note, style="red") for variant in made.variants if (note := _problem(variant))]
    said = [note for variant in made.variants for note in _placement_notes(variant)]
    durations = [variant.duration(work) for variant in made.variants for work, _ in variant.works]
    said += dict.fromkeys(_duration_note(duration) for duration in durations)
    said += [f"Memory mode {saving}: {SAVINGS[saving]}." for saving in made.savings]
    said += dict.fromkeys(
        f"The {model.name} is not counted: its files are not there."
        for variant in made.variants
        for model in variant.demand.side
        if model.num_bytes is None
    )
    return notes + [Text(note) for note in (*said, "Loading the models, checks and H.264 are not in these times.")]


def _problem(variant: VariantPlan) -> str | None:
    problem = variant.placement.problem
    return f"{variant.variant} does not fit: {problem}." if problem else None


def _placement_notes(variant: VariantPlan) -> list[str]:
    notes = [
        f"{variant.variant}: {stage.num_scenarios} on {stage.group_size} GPUs each, {stage.why}."
        for stage in variant.placement.stages
        if stage.group_size > 1
    ]
    small = variant.placement.left_out
    return notes + [f"{variant.variant}: GPU {n}, {variant.gpus[n].name}, is too small and left out." for n in small]


def _duration_note(duration: Duration) -> str:
    if duration.seconds is None:
        return f"Seconds unknown: {duration.source}."
    return f"Seconds {'' if duration.basis is DurationBasis.MEASURED else 'scaled '}from: {duration.source}."
