"""`crossroads ui`: a Prefect server on this machine, on the database that local runs write to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from typing import Annotated

import typer
from rich.console import Console

from cosmos_core.errors import BadConfig
from flows.cli.environment import prepare_environment

__all__ = ["ui"]

_START_TIMEOUT_S = 300.0

console = Console()


def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 4200,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Start a Prefect server with its web page, print its address, and serve until interrupted."""
    prepare_environment()
    environment = os.environ | {"PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    environment.pop("PREFECT_API_URL", None)
    # The page calls the API under the address that it is shown under.
    environment.setdefault("PREFECT_UI_API_URL", f"http://{host}:{port}/api")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        with console.status("starting the Prefect server"):
            _wait(server, f"http://{host}:{port}/api/health")
        console.print(f"Prefect UI: http://{host}:{port}", highlight=False)
        console.print("To run against this server:", highlight=False)
        console.print(f"  export PREFECT_API_URL=http://{host}:{port}/api", highlight=False)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(server: subprocess.Popen[bytes], health: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise BadConfig(
                "the Prefect server did not start", got=f"exit code {server.returncode}", fix="Try another --port"
            )
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise BadConfig("the Prefect server did not start", got=f"no answer within {_START_TIMEOUT_S:g} s")
