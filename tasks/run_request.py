"""An order for one run of a deployment over one manifest, which is carried out once however often it is given.

What makes two orders the same is the content of the manifest, the deployment and all parameters but the manifest's
address: that is their key. The Prefect server makes one run of all requests with one key; the file `started/<key>.json`
remembers it beyond the server's database.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from prefect.exceptions import ObjectNotFound

from cosmos_core.errors import BadConfig
from cosmos_core.hashing import sha256_json
from tasks.inbox import DEPLOYMENT
from tasks.prefect_server import prefect_server
from tasks.storage import Store

__all__ = ["RunRequest", "StartedRun", "start_once", "started_name"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What to start."""

    manifest_sha256: str
    deployment: str = DEPLOYMENT
    """`flow/deployment`."""
    parameters: dict[str, Any]
    """Of the flow; `manifest` is the address of the immutable copy."""
    title: str
    """Name that persons know the manifest by; a tag of the run."""

    @property
    def key(self) -> str:
        """64 hexadecimal digits, the same for the same order."""
        settings = {name: value for name, value in self.parameters.items() if name != "manifest"}
        return sha256_json({"manifest": self.manifest_sha256, "deployment": self.deployment, "parameters": settings})


@dataclass(frozen=True, slots=True)
class StartedRun:
    """The one run of an order."""

    run_id: str
    is_new: bool
    """Whether it was this caller who started it; of several at once one is told so."""


def started_name(request: RunRequest) -> str:
    """Name of the file that remembers the run of an order."""
    return f"started/{request.key}.json"


def start_once(store: Store, request: RunRequest) -> StartedRun:
    """Start the run of an order, or find the one that was started for it.

    The file is written after the run was made, so that a crash between the two loses nothing: the next caller is given
    the same run by the server and writes the file.

    Raises:
        BadConfig: no server is configured, or it has no such deployment.
        BadRequest: the deployment does not take these parameters.
        EndpointUnavailable, StorageUnavailable: the server or the store did not answer.
    """
    name = started_name(request)
    if (known := store.read_bytes(name)) is not None:
        return StartedRun(str(json.loads(known)["run_id"]), is_new=False)
    run_id = _create_run(request)
    facts = {
        "run_id": run_id,
        "manifest_sha256": request.manifest_sha256,
        "deployment": request.deployment,
        "parameters": request.parameters,
        "at": datetime.now(UTC).isoformat(),
        "by": uuid.uuid4().hex,  # of two writers at once exactly one finds its own
    }
    data = json.dumps(facts, indent=2, ensure_ascii=False).encode()
    return StartedRun(run_id, is_new=store.publish_new_bytes(data, name, content_type="application/json"))


def _create_run(request: RunRequest) -> str:
    with prefect_server() as client:
        try:
            deployment = client.read_deployment_by_name(request.deployment)
        except ObjectNotFound as error:
            raise BadConfig(
                "the Prefect server has no such deployment", got=request.deployment, fix="Run `prefect deploy --all`"
            ) from error
        taken = (deployment.parameter_openapi_schema or {}).get("properties", {})
        if unknown := sorted(set(request.parameters) - set(taken)):
            raise BadConfig(
                "the deployment does not take such a parameter", got=", ".join(unknown), expected=", ".join(taken)
            )
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters=request.parameters,
            idempotency_key=request.key,
            tags=[f"manifest:{request.title}"],
        )
    return str(run.id)
