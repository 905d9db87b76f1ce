"""What a record knows of its Prefect task runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.stage_runs import StageRuns, staged


@pytest.fixture
def run():
    return SimpleNamespace(stages=StageRuns())


def test_a_stage_notes_its_task_run_its_time_and_its_attempt(run, monkeypatch):
    monkeypatch.setenv("PREFECT__RUNTIME__TASK_RUN__ID", "task-7")

    @staged("fetch")
    def fetch(run, scenario):
        [begun] = run.stages.of("a").values()
        assert (begun.task_run_id, begun.attempt, begun.seconds) == ("task-7", 1, None)
        return scenario.scenario_id

    assert fetch(run, SimpleNamespace(scenario_id="a")) == "a"
    assert fetch.__name__ == "fetch"
    assert run.stages.of("a")["fetch"].seconds >= 0
    assert run.stages.of("b") == {}
    run.stages.forget("a")
    assert run.stages.of("a") == {}


def test_a_job_counts_for_its_scenario_and_a_failure_is_noted_too(run):
    @staged("generate")
    def generate(run, job, plan):
        raise ValueError(plan)

    with pytest.raises(ValueError, match="plan"):
        generate(run, job=SimpleNamespace(scenario=SimpleNamespace(scenario_id="a")), plan="plan")
    assert run.stages.of("a")["generate"].task_run_id is None
    assert run.stages.of("a")["generate"].seconds is not None
