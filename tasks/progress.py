"""Where a run stands, for whoever wants to see it: the terminal, a Prefect artifact, a test.

Stages report events; listeners get a snapshot. A listener is registered for the run that starts in its `with` block.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["Listener", "Progress", "ScenarioState", "current_listeners", "listening"]

STAGES = ("fetch", "refine", "generate", "check", "publish")


@dataclass(slots=True)
class ScenarioState:
    """Where one scenario stands."""

    scenario_id: str
    stage: str = "waiting"
    detail: str = ""
    fraction: float = 0.0
    """Share of the scenario's work that is done, 0..1; generation counts for nearly all of it."""
    status: str | None = None
    reason: str = ""


class Listener(Protocol):
    """Told about every change; called from several threads, but never from two at once."""

    def on_change(self, progress: Progress, changed: ScenarioState | None) -> None: ...


_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("crossroads_listeners", default=())


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Register a listener for the runs that start in this block."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)


def current_listeners() -> tuple[Listener, ...]:
    """The listeners registered where this is called."""
    return _LISTENERS.get()


_BEFORE_GENERATE, _AFTER_GENERATE = 0.05, 0.9


@dataclass(slots=True)
class Progress:
    """All scenarios of a run."""

    listeners: Sequence[Listener] = ()
    note: str = "starting"
    scenarios: dict[str, ScenarioState] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, scenario_ids: Sequence[str]) -> None:
        """Announce the scenarios that will be worked on."""
        with self._lock:
            for scenario_id in scenario_ids:
                self.scenarios[scenario_id] = ScenarioState(scenario_id)
            self._tell(None)

    def say(self, note: str) -> None:
        """What the run as a whole is doing."""
        with self._lock:
            self.note = note
            self._tell(None)

    def stage(self, scenario_id: str, stage: str, detail: str = "") -> None:
        """A scenario has come to a stage."""
        with self._lock:
            state = self.scenarios[scenario_id]
            state.stage, state.detail = stage, detail
            if stage in ("check", "publish"):
                state.fraction = max(state.fraction, _AFTER_GENERATE)
            self._tell(state)

    def step(self, scenario_id: str, stage: str, step: int, num_steps: int) -> None:
        """A scenario has come so far within its generation."""
        with self._lock:
            state = self.scenarios[scenario_id]
            state.detail = f"{stage} {step}/{num_steps}"
            if stage == "denoise":
                share = step / max(num_steps, 1)
                state.fraction = _BEFORE_GENERATE + share * (_AFTER_GENERATE - _BEFORE_GENERATE)
            self._tell(state)

    def finish(self, scenario_id: str, status: str, reason: str) -> None:
        """A scenario has ended."""
        with self._lock:
            state = self.scenarios.setdefault(scenario_id, ScenarioState(scenario_id))
            state.stage, state.status, state.reason, state.fraction, state.detail = "done", status, reason, 1.0, ""
            self._tell(state)

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0..1."""
        if not self.scenarios:
            return 0.0
        return sum(state.fraction for state in self.scenarios.values()) / len(self.scenarios)

    def _tell(self, changed: ScenarioState | None) -> None:
        for listener in self.listeners:
            listener.on_change(self, changed)
