"""What every test shares: homes of its own, so that nothing of the developer's is touched."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before Prefect is imported anywhere: it reads its settings once.
_HOME = Path(tempfile.mkdtemp(prefix="crossroads-tests-"))
for _name, _value in {
    "PREFECT_HOME": str(_HOME / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "CROSSROADS_HOME": str(_HOME / "crossroads"),
    "CROSSROADS_STATE": str(_HOME / "state"),
    # Small tensors on few cores: threads that wait for each other cost more than they give.
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ[_name] = _value
os.environ.pop("PREFECT_API_URL", None)

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def micro_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with the micro model."""
    from cosmos_core.micro import make_micro

    root = tmp_path_factory.mktemp("checkpoints")
    make_micro(root)
    return root


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 endpoint on this machine; its address and credentials are in the environment while it runs."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    yield endpoint
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> str:
    """Address of an empty bucket."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
