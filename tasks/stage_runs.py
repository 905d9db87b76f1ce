"""Which task run did which stage of a scenario, when, and for how long: the part of a record that Prefect knows."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ParamSpec, TypeVar

from prefect.runtime import task_run
from pydantic import BaseModel, ConfigDict

__all__ = ["StageRun", "StageRuns", "staged"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class StageRun(BaseModel):
    """One stage of one scenario, as its last attempt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_run_id: str | None
    """None where the stage was called without Prefect."""
    attempt: int
    """Counted from 1."""
    started_at: datetime
    seconds: float | None = None
    """None while it runs; the stage that writes the record is never seen at its end."""


class StageRuns:
    """The stages of all scenarios of a run. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, StageRun]] = {}

    def of(self, scenario_id: str) -> dict[str, StageRun]:
        """The stages of one scenario so far, by name, in the order in which they began."""
        with self._lock:
            return dict(self._runs.get(scenario_id, {}))

    def forget(self, scenario_id: str) -> None:
        """Let go of a scenario that has ended."""
        with self._lock:
            self._runs.pop(scenario_id, None)

    def _note(self, scenario_id: str, stage: str, run: StageRun) -> None:
        with self._lock:
            self._runs.setdefault(scenario_id, {})[stage] = run


def staged(stage: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Note a stage's task run in `run.stages`; for functions whose first arguments are a run and a scenario or job."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def noted(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            run, subject, *_ = signature.bind(*args, **kwargs).arguments.values()
            scenario_id = getattr(subject, "scenario", subject).scenario_id
            began = StageRun(task_run_id=task_run.id, attempt=task_run.run_count or 1, started_at=datetime.now(UTC))
            started = time.monotonic()
            run.stages._note(scenario_id, stage, began)
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.monotonic() - started
                run.stages._note(scenario_id, stage, began.model_copy(update={"seconds": seconds}))

        return noted

    return decorate
