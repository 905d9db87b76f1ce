"""The terminal's view of a run: a bar for all, one for each scenario in work, a line when one ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from tasks.progress import Progress, ScenarioState

__all__ = ["TerminalDisplay", "results_table"]

_STYLES = {"published": "green", "blocked": "red", "quarantined": "yellow", "invalid": "red", "failed": "bold red"}
_MAX_ACTIVE = 8


class TerminalDisplay:
    """A listener that draws bars on a terminal, or prints plain lines where there is none."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim"),
            console=console,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task("starting", total=1.0, detail="")
        self._active: dict[str, TaskID] = {}
        self._note = ""
        self._fraction = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def shown(self) -> Iterator[TerminalDisplay]:
        with self._bars:
            yield self

    def say(self, note: str) -> None:
        """Show what is being done before the run itself reports."""
        with self._lock:
            self._describe(note, self._fraction)

    def on_change(self, progress: Progress, changed: ScenarioState | None) -> None:
        with self._lock:
            self._describe(progress.note, progress.fraction)
            if changed is not None:
                self._update(changed)

    def _describe(self, note: str, fraction: float) -> None:
        self._bars.update(self._all, description=note, completed=fraction)
        if note != self._note and not self._console.is_terminal:
            self._console.print(note)
        self._note, self._fraction = note, fraction

    def _update(self, state: ScenarioState) -> None:
        bar = self._active.get(state.scenario_id)
        if state.status is not None:
            if bar is not None:
                self._bars.remove_task(self._active.pop(state.scenario_id))
            self._console.print(_ending(state.scenario_id, state.status, state.reason))
            return
        if bar is None:
            if state.stage in ("fetch", "refine") or len(self._active) >= _MAX_ACTIVE:
                return
            bar = self._active[state.scenario_id] = self._bars.add_task(f"  {state.scenario_id}", total=1.0, detail="")
        self._bars.update(bar, completed=state.fraction, detail=f"{state.stage} {state.detail}".strip())


def _ending(scenario_id: str, status: str, reason: str) -> Text:
    line = Text.assemble((f"{status:>11}", _STYLES.get(status, "")), f"  {scenario_id}")
    return line.append(f": {reason}", style="dim") if reason and status != "published" else line


def results_table(rows: list[dict[str, Any]]) -> Table:
    """The table of outcomes at the end of a run."""
    table = Table(title="Outcomes", title_justify="left")
    table.add_column("row", justify="right")
    table.add_column("scenario", overflow="fold")
    table.add_column("status")
    table.add_column("video or reason", overflow="fold")
    for row in rows:
        table.add_row(
            str(row["row_number"]),
            row["scenario_id"] or row["output_name"] or "",
            Text(row["status"], style=_STYLES.get(row["status"], "")),
            Text(row["video_uri"] or row["reason"]),
        )
    return table
