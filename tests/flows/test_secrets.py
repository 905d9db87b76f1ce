"""What is secret stays in the environment or in its block: nothing that a run writes has it, wherever it is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.flows.conftest import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PROMPT = "A static traffic CCTV camera captures an intersection. A red sedan turns left and stops."
SECRETS = {
    "AWS_ACCESS_KEY_ID": "SECRETID4711",
    "AWS_SECRET_ACCESS_KEY": "SECRETKEY4712",
    "AWS_SESSION_TOKEN": "SECRETTOKEN4713",
    "REFINER_KEY": "SECRETREFINER4714",
    "OPENLINEAGE__TRANSPORT__AUTH": json.dumps({"type": "api_key", "apiKey": "SECRETLINEAGE4715"}),
}
MARK = "SECRET"
CONTENT_TYPES = {
    "mp4": "video/mp4",
    "jpg": "image/jpeg",
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "html": "text/html; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}


def texts_of(name: str, data: bytes) -> Iterator[str]:
    """Everything that can be read in a file; what Parquet compresses is unpacked."""
    yield data.decode(errors="replace")
    if name.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
        yield str(table.to_pylist())
        yield str(table.schema)
        yield str(table.schema.metadata)


def test_no_secret_of_the_environment_is_in_anything_that_a_run_writes(
    offline_workspace: Workspace, bucket: str, tmp_path: Path
) -> None:
    import s3fs

    workspace = offline_workspace
    config = yaml.safe_load((workspace.folder / "run.yaml").read_text())
    endpoint = {"url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": "REFINER_KEY", "max_attempts": 1}
    config["refiner"] = {"kind": "endpoint", "endpoint": endpoint}
    (workspace.folder / "run.yaml").write_text(yaml.safe_dump(config))
    workspace.environment |= {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    workspace.environment |= SECRETS | {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "DEBUG",
        "OPENLINEAGE__TRANSPORT__TYPE": "http",
        "OPENLINEAGE__TRANSPORT__URL": "http://127.0.0.1:9",
        "OPENLINEAGE__TRANSPORT__RETRY": '{"total": 0}',
    }
    rows = [
        {"input": "frames/a.png", "prompt": PROMPT, "scenario_id": "a", "num_steps": 1},
        {"input": "https://host/a.png?sig=SECRET", "prompt": PROMPT, "scenario_id": "signed"},
    ]
    manifest = workspace.write_manifest(rows)
    done = workspace.run("generate", str(manifest), "-o", f"{bucket}/out", "--config", "run.yaml", "--verbose")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "no lineage events: " in done.stdout + done.stderr

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    written = {path: filesystem.cat_file(path) for path in filesystem.find(f"{bucket}/out")}
    assert {path.rsplit(".", 1)[1] for path in written} == set(CONTENT_TYPES) - {"jsonl"}
    for path in written:
        assert filesystem.info(path)["ContentType"] == CONTENT_TYPES[path.rsplit(".", 1)[1]], path

    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != manifest]
    assert any(path.name == "prefect.db" for path in files)
    assert any(path.match("logs/worker-*.log") for path in files)
    written |= {str(path): path.read_bytes() for path in files}
    written |= {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()}
    found = [name for name, data in written.items() for text in texts_of(name, data) if MARK in text]
    assert found == []


def test_credentials_may_lie_in_a_block_of_the_server(
    workspace: Workspace, bucket: str, s3_endpoint: str, repository: Path
) -> None:
    """Written and read by processes of their own that have no credentials in their environment."""
    environment = {name: value for name, value in workspace.environment.items() if not name.startswith("AWS_")}

    def python(code: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | more, cwd=repository, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    value = {"aws_access_key_id": "testing", "aws_secret_access_key": "SECRETKEY4716", "endpoint_url": s3_endpoint}
    python(f"from prefect.blocks.system import Secret; Secret(value={value}).save('results')")
    use = f"""
from tasks.storage import open_store
store = open_store("{bucket}/out")
store.publish_bytes(b"x", "a.txt", content_type="text/plain")
print(store.read_bytes("a.txt"), store)
"""
    said = python(use, CROSSROADS_S3_SECRET="results")
    assert said.startswith("b'x'")
    assert MARK not in said
