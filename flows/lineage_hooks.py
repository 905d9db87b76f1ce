"""Hooks that tell OpenLineage where a run stands. They see what Prefect sees, so a run that crashes is told of as well.

A hook that raises is logged by Prefect and changes nothing about the run; what concerns the backend alone does not even
raise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import FlowRun, State

from tasks.config import load_config
from tasks.lineage_dataset import find_lineage
from tasks.lineage_events import RunEvents
from tasks.storage import open_store

__all__ = ["tell_aborted", "tell_complete", "tell_failed", "tell_started"]


def tell_started(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """START."""
    _events(flow, flow_run).start()


def tell_complete(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """COMPLETE, with the versions that were used and what was written."""
    _events(flow, flow_run).complete(_lineage(flow_run))


def tell_failed(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """FAIL, also of a run whose process was ended by a signal."""
    _events(flow, flow_run).fail(state.message or state.name or "failed")


def tell_aborted(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """ABORT."""
    _events(flow, flow_run).abort()


def _events(flow: Flow[..., Any], flow_run: FlowRun) -> RunEvents:
    parameters = flow_run.parameters
    store = open_store(parameters["output"])
    return RunEvents(store, run_id=str(flow_run.id), job=flow.name, manifest=parameters["manifest"])


def _lineage(flow_run: FlowRun) -> str:
    config = flow_run.parameters.get("config")
    settings = load_config(Path(config) if config else None)
    place = find_lineage(configured=settings.lineage, output=flow_run.parameters["output"])
    assert place is not None, "every output has a place of its own"
    return place
