"""Runs on the Prefect server, looked at and steered from outside."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import SetStateStatus
from prefect.client.schemas.sorting import ArtifactSort
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from cosmos_core.errors import BadRequest, CrossroadsError
from tasks.prefect_server import prefect_server
from tasks.records import RESULTS_NAME, read_results
from tasks.storage import open_store

__all__ = ["RunStatus", "cancel_run", "retry_run", "run_status"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """A run as it is now."""

    run_id: str
    name: str
    state: str
    """Name of its state: `Running`, `CompletedWithFailures` and so on."""
    state_type: str
    """One of Prefect's types: `RUNNING`, `COMPLETED` and so on."""
    message: str
    is_final: bool
    started_at: datetime | None
    ended_at: datetime | None
    progress: float | None
    """Percent, if the run tells."""
    parameters: dict[str, Any]
    counts: dict[str, int] | None
    """Scenarios by status, once the run's results can be read."""
    counts_note: str | None
    """Why there are none."""


def run_status(run: str) -> RunStatus:
    """The state of a run, with the counts of its results if they can be read from here.

    Args:
        run: id, or a name that only one run has.

    Raises:
        BadRequest: there is no such run, or several of that name.
        BadConfig, EndpointUnavailable: there is no server, or it did not answer.
    """
    with prefect_server() as client:
        found = _find(client, run)
        progress = _progress(client, found)
    state = found.state
    counts, note = _counts(found)
    return RunStatus(
        run_id=str(found.id),
        name=found.name,
        state=state.name or state.type.value if state else "Unknown",
        state_type=state.type.value if state else "UNKNOWN",
        message=(state.message if state else None) or "",
        is_final=state is not None and state.is_final(),
        started_at=found.start_time,
        ended_at=found.end_time,
        progress=progress,
        parameters=found.parameters,
        counts=counts,
        counts_note=note,
    )


def cancel_run(run: str) -> tuple[str, str]:
    """Ask for a run to be stopped: what serves it ends its processes; one that nobody has begun is cancelled at once.

    Returns:
        The run's id, and the name of its state now.

    Raises:
        BadRequest: there is no such run, or it has ended.
        BadConfig, EndpointUnavailable: see `run_status`.
    """
    with prefect_server() as client:
        found = _find(client, run)
        if found.state is not None and found.state.is_final():
            raise BadRequest("this run has ended", got=f"{found.state.name}", expected="a run that goes on")
        result: OrchestrationResult[Any] = client.set_flow_run_state(found.id, Cancelling())
        if result.status is SetStateStatus.ABORT:
            raise BadRequest("the server did not take this", got=getattr(result.details, "reason", None))
        state = client.read_flow_run(found.id).state
        return str(found.id), (state.name if state else None) or StateType.CANCELLING.value


def retry_run(run: str) -> tuple[str, bool]:
    """Start a run with the same deployment and parameters; scenarios that are finished are recognised and reused.

    A run has one retry: asked again, that one is given. It can be retried in its turn.

    Returns:
        The id of the retry, and whether it was started now.

    Raises:
        BadRequest: there is no such run, it goes on, or it did not come from a deployment.
        BadConfig, EndpointUnavailable: see `run_status`.
    """
    with prefect_server() as client:
        found = _find(client, run)
        if found.state is None or not found.state.is_final():
            raise BadRequest(
                "this run goes on", got=found.state and found.state.name, fix=f"Run `crossroads cancel {found.id}`"
            )
        if found.deployment_id is None:
            raise BadRequest("this run did not come from a deployment", got=found.name, fix="Run its command again")
        key = f"retry-of-{found.id}"
        same = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
        is_new = not client.read_flow_runs(flow_run_filter=same, limit=1)
        made = client.create_flow_run_from_deployment(
            found.deployment_id,
            parameters=found.parameters,
            idempotency_key=key,
            tags=[tag for tag in found.tags if tag.startswith("manifest:")],
        )
        return str(made.id), is_new


def _find(client: SyncPrefectClient, run: str) -> FlowRun:
    try:
        return client.read_flow_run(UUID(run))
    except ObjectNotFound:
        raise BadRequest("the Prefect server has no such run", got=run, fix="See its list of runs") from None
    except ValueError:
        named = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[run])), limit=3)
    if len(named) != 1:
        got = f"{'no' if not named else 'several'} runs named {run}"
        raise BadRequest("this names no run", got=got, expected="the id of a run, or a name that only one has")
    return named[0]


def _progress(client: SyncPrefectClient, run: FlowRun) -> float | None:
    wanted = ArtifactFilter(
        flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]), type=ArtifactFilterType(any_=["progress"])
    )
    artifacts = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC, limit=1)
    return float(artifacts[0].data) if artifacts and isinstance(artifacts[0].data, int | float) else None


def _counts(run: FlowRun) -> tuple[dict[str, int] | None, str | None]:
    output = run.parameters.get("output")
    if not isinstance(output, str):
        return None, "the run has no output"
    try:
        store = open_store(output, for_writing=False)
        rows = read_results(store)
    except CrossroadsError as error:
        return None, str(error)
    # An earlier run over the same output leaves its table there until this one has ended.
    if not rows or rows[0]["run_id"] != str(run.id):
        return None, f"{store.uri_of(RESULTS_NAME)} is not of this run, or not there yet"
    return dict(Counter(row["status"] for row in rows).most_common()), None
