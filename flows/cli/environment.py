"""The process environment that Prefect is started in; set before Prefect is imported, and only where nothing is set."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["prepare_environment"]


def prepare_environment(*, verbose: bool = False) -> None:
    """Settings of a command that runs flows or a server on this machine.

    Without `PREFECT_API_URL` Prefect starts a temporary server for the run. Its database lies in `.prefect`, so that
    `crossroads ui` shows the run afterwards.
    """
    defaults = {
        "PREFECT_HOME": str(Path(".prefect").absolute()),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        # The default of 20 s is too short for a first start (database migrations) on a small machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "cosmos_core,tasks",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
