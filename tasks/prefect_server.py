"""The Prefect server that deployments live on, with its errors in our own tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import get_current_settings

from cosmos_core.errors import BadConfig, BadRequest, EndpointUnavailable

__all__ = ["prefect_server"]


@contextlib.contextmanager
def prefect_server() -> Iterator[SyncPrefectClient]:
    """A client of the running server. A temporary one is never started: it would know of no deployment.

    Raises:
        BadConfig: no server is configured.
        BadRequest: the server refused what was asked.
        EndpointUnavailable: the server did not answer, or failed.
    """
    address = get_current_settings().api.url
    if address is None:
        raise BadConfig(
            "no Prefect server is configured",
            expected="the address of a running one",
            fix="Start one with `crossroads ui` and export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    try:
        with get_client(sync_client=True) as client:
            yield client
    except PrefectHTTPStatusError as error:
        kind = BadRequest if error.response.status_code < 500 else EndpointUnavailable
        detail = " ".join(error.response.text.split())[:500]
        raise kind("the Prefect server refused this", got=f"{error.response.status_code} {detail}") from error
    except (httpx.TransportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "Failed to reach API" not in str(error):
            raise
        raise EndpointUnavailable(
            f"the Prefect server at {address} did not answer",
            got=type(error).__name__,
            fix="Check that it runs, and PREFECT_API_URL",
        ) from error
