"""A user's working folder, a real Prefect server, and the command line as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

CROSSROADS = Path(sys.executable).parent / "crossroads"


class Workspace:
    """A folder with frames and a configuration for the micro model, in which commands can be run."""

    def __init__(self, folder: Path, micro_root: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        (folder / "frames").mkdir(parents=True)
        for name, colour in (("a.png", (40, 90, 160)), ("b.png", (150, 120, 60))):
            pixels = np.full((90, 160, 3), colour, dtype=np.uint8)
            pixels[40:60, 30:80] = (200, 30, 30)
            Image.fromarray(pixels).save(folder / "frames" / name)
        (folder / "frames" / "corrupt.png").write_bytes((folder / "frames" / "a.png").read_bytes()[:100])
        config = {
            "defaults": {"model": "micro", "resolution": "112", "fps": 10, "num_steps": 2},
            "checkpoints": {"root": str(micro_root)},
            "worker": {"num_threads": 1},
            "adapters": {
                "collision": {"path": str(micro_root / "crossroads/micro/adapters/collision/iter_000000001.pt")},
                "wrong-rank": {
                    "path": str(micro_root / "crossroads/micro/adapters/rear_end/iter_000000001.pt"),
                    "rank": 8,
                },
            },
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(config))

    def write_manifest(self, rows: list[dict[str, Any]], name: str = "manifest.json") -> Path:
        path = self.folder / name
        path.write_text(json.dumps(rows))
        return path

    def command(self, *arguments: str) -> list[str]:
        return [str(CROSSROADS), *arguments]

    def run(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def generate(self, manifest: str = "manifest.json", output: str = "out") -> subprocess.CompletedProcess[str]:
        return self.run("generate", manifest, "--output", output, "--config", "run.yaml")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "started.log").open("wb") as log:
            return subprocess.Popen(
                self.command(*arguments), cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )

    def results(self, output: str = "out") -> list[dict[str, Any]]:
        return pq.read_table(self.folder / output / "results.parquet").to_pylist()

    def lineage(self, output: str = "out") -> list[dict[str, Any]]:
        """All rows of the lineage dataset, whatever file they are in."""
        files = sorted((self.folder / output / "lineage" / "rows").rglob("*.parquet"))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    def record(self, scenario_id: str, output: str = "out") -> dict[str, Any]:
        return json.loads((self.folder / output / "records" / f"{scenario_id}.json").read_text())


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API of a Prefect server on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"PREFECT_HOME": str(tmp_path_factory.mktemp("prefect-server"))}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path_factory.mktemp("log") / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    api = f"http://127.0.0.1:{port}/api"
    try:
        wait_until(lambda: _answers(f"{api}/health") or server.poll() is not None, timeout_s=180)
        assert server.poll() is None, "the Prefect server did not start"
        yield api
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture
def api(prefect_server: str) -> Iterator[str]:
    """This process and its commands talk to the Prefect server; threads of a test need a copy of its context."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


@pytest.fixture
def deployed(api: str) -> Iterator[Callable[[], list[Any]]]:
    """The deployment for runs on demand is on the server; gives its runs, those of this test only."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

    from flows.generate_scenarios import generate_scenarios

    deployment = generate_scenarios.to_deployment("generate", enforce_parameter_schema=True)
    deployment_id = deployment.apply()

    def runs() -> list[Any]:
        only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))
        with get_client(sync_client=True) as client:
            return [run for run in client.read_flow_runs(deployment_filter=only) if run.id not in before]

    before: set[Any] = set()
    before |= {run.id for run in runs()}
    yield runs
    with get_client(sync_client=True) as client:
        for run in runs():
            client.delete_flow_run(run.id)  # a worker of another test must not find it


@pytest.fixture
def workspace(tmp_path: Path, micro_root: Path, prefect_server: str) -> Workspace:
    """A working folder whose commands talk to the Prefect server."""
    environment = os.environ | {
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "CROSSROADS_HOME": str(tmp_path / "home"),
        "COLUMNS": "200",
    }
    return Workspace(tmp_path / "work", micro_root, environment)


@pytest.fixture
def offline_workspace(tmp_path: Path, micro_root: Path) -> Workspace:
    """A working folder without a Prefect server: commands start a temporary one."""
    environment = os.environ | {"PREFECT_HOME": str(tmp_path / "prefect"), "CROSSROADS_HOME": str(tmp_path / "home")}
    environment.pop("PREFECT_API_URL", None)
    return Workspace(tmp_path / "work", micro_root, environment)


def wait_until(condition: Callable[[], object], *, timeout_s: float, interval_s: float = 0.2) -> None:
    """Wait for something to come true; fail the test if it does not."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not come true within {timeout_s:g} s"
        time.sleep(interval_s)


def worker_processes(marker: Path) -> list[int]:
    """Worker processes, torchrun included, of the run whose home is below `marker`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"cosmos_core.worker" in arguments and str(marker).encode() in environment:
            found.append(int(entry.name))
    return found


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2):
            return True
    except OSError:
        return False
