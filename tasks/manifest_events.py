"""Prefect events about manifests that came in, for automations: a message, a call, another deployment."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

__all__ = ["RECEIVED", "REFUSED", "tell_received", "tell_refused"]

RECEIVED = "crossroads.manifest.received"
REFUSED = "crossroads.manifest.refused"


def tell_received(identity: str, name: str, **facts: Any) -> None:
    """Say that a manifest was taken and has its run.

    Args:
        identity: what the event is about, of letters and digits; its resource is `crossroads.manifest.<identity>`.
        name: file name that persons know it by.
        facts: payload of the event.
    """
    emit_event(RECEIVED, _resource(identity, name), payload={"name": name, **facts})


def tell_refused(identity: str, name: str, *, reason: str) -> None:
    """Say that a file in the inbox is no manifest that could be run."""
    emit_event(REFUSED, _resource(identity, name), payload={"name": name, "reason": reason})


def _resource(identity: str, name: str) -> dict[str, str]:
    return {"prefect.resource.id": f"crossroads.manifest.{identity}", "prefect.resource.name": name}
