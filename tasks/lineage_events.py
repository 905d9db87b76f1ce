"""OpenLineage events of a run: START, then COMPLETE, FAIL or ABORT, with what went in and what came out.

They go where OpenLineage's own settings say (`OPENLINEAGE_URL`, `OPENLINEAGE__TRANSPORT__...`, `openlineage.yml`), and
without any into a file of the output. They are a copy for other systems: a backend that does not take them costs one
line in the log and nothing else.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from openlineage.client.serde import Serde
from openlineage.client.transport import Transport

from cosmos_core.errors import CrossroadsError
from tasks.lineage_dataset import LineageDataset, open_lineage
from tasks.lineage_query import Version
from tasks.manifest_source import scheme_of, without_credentials
from tasks.records import RESULTS_NAME
from tasks.storage import Store

__all__ = ["RunEvents", "events_name"]

_NAMESPACE = "crossroads"
_MAX_MESSAGE = 2000
_log = logging.getLogger(__name__)
_told: set[str] = set()
"""Runs whose backend did not answer and which have said so."""


def events_name(run_id: str) -> str:
    """Name of a run's events below its output, one JSON object a line."""
    return f"openlineage/{run_id}.jsonl"


class _OutputTransport(Transport):
    """Appends events to a file of the output, which is whole after each of them."""

    kind = "crossroads-output"

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name

    def emit(self, event: Any) -> None:
        before = self._store.read_bytes(self._name) or b""
        line = Serde.to_json(event).encode() + b"\n"
        self._store.publish_bytes(before + line, self._name, content_type="application/x-ndjson")


class RunEvents:
    """The events of one run. Emitting never raises because of the backend.

    Args:
        store: output of the run.
        run_id: the flow run, a UUID.
        job: name of the flow.
        manifest: path or address of the manifest.
    """

    def __init__(self, store: Store, *, run_id: str, job: str, manifest: str) -> None:
        self._store = store
        self._run_id = run_id
        self._job = job
        self._manifest = manifest

    def start(self) -> None:
        """The run begins."""
        self._emit(RunState.START, inputs=[self._manifest_dataset()])

    def complete(self, lineage: str) -> None:
        """The run has written its results.

        Args:
            lineage: place of the dataset with its rows.
        """
        self._end(RunState.COMPLETE, lineage)

    def fail(self, message: str, lineage: str | None = None) -> None:
        """The run could not do anything, or ended by an error."""
        facet = error_message_run.ErrorMessageRunFacet(
            message=without_credentials(message)[:_MAX_MESSAGE], programmingLanguage="python"
        )
        self._end(RunState.FAIL, lineage, {"errorMessage": facet})

    def abort(self) -> None:
        """The run was cancelled."""
        self._end(RunState.ABORT, None)

    def _end(self, state: RunState, lineage: str | None, facets: dict[str, Any] | None = None) -> None:
        inputs, outputs = [self._manifest_dataset()], list[OutputDataset]()
        try:
            if lineage is not None and (rows := self._store.read_bytes(RESULTS_NAME)) is not None:
                dataset = open_lineage(lineage)
                versions = dataset.ask(
                    lambda parts: [version for part in parts for version in part.versions], run_id=self._run_id
                )
                inputs += _version_datasets(versions)
                outputs = [*self._result_datasets(rows), _lineage_dataset(dataset)]
        except CrossroadsError as error:
            self._tell(error)
        self._emit(state, inputs=inputs, outputs=outputs, facets=facets)

    def _emit(
        self,
        state: RunState,
        *,
        inputs: Sequence[InputDataset],
        outputs: Sequence[OutputDataset] = (),
        facets: dict[str, Any] | None = None,
    ) -> None:
        version = importlib.metadata.version("crossroads")
        engine = processing_engine_run.ProcessingEngineRunFacet(name="crossroads", version=version)
        kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="CROSSROADS", jobType="FLOW")
        event = RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            eventType=state,
            producer=f"pkg:pypi/crossroads@{version}",
            run=Run(runId=self._run_id, facets={"processing_engine": engine} | (facets or {})),
            job=Job(
                namespace=os.environ.get("OPENLINEAGE_NAMESPACE", _NAMESPACE), name=self._job, facets={"jobType": kind}
            ),
            inputs=list(inputs),
            outputs=list(outputs),
        )
        try:
            client = _client(self._store, events_name(self._run_id))
            client.emit(event)
            client.close(timeout=10.0)
        except Exception as error:
            # Whatever a transport raises: no backend may fail a run.
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._run_id not in _told:
            _told.add(self._run_id)
            what = without_credentials(f"{type(error).__name__}: {error}")[:_MAX_MESSAGE]
            _log.warning("no lineage events: %s; the run goes on without them", what)

    def _manifest_dataset(self) -> InputDataset:
        namespace, name = _named(self._manifest)
        return InputDataset(namespace=namespace, name=name)

    def _result_datasets(self, data: bytes) -> list[OutputDataset]:
        rows = pq.read_table(pa.BufferReader(data), columns=["video_uri", "run_id", "reused"])
        videos = sum(row["video_uri"] is not None and not row["reused"] for row in rows.to_pylist())
        return [
            _output(self._store.uri_of(RESULTS_NAME), rows=len(rows), size=len(data), schema=_schema_of(data)),
            _output(self._store.uri_of("videos"), files=videos),
        ]


def _client(store: Store, name: str) -> OpenLineageClient:
    """A client as OpenLineage's own settings describe it, or one that writes into the output."""
    client = OpenLineageClient(transport=_OutputTransport(store, name))
    is_configured = bool(client.config.transport) or bool(os.environ.get("OPENLINEAGE_URL"))
    return OpenLineageClient() if is_configured else client


def _version_datasets(versions: Sequence[Version]) -> list[InputDataset]:
    """One dataset for each model file, under a name that does not depend on where it lies."""
    found: dict[str, InputDataset] = {}
    for version in versions:
        if version["sha256"] is not None and version["path"] is not None:
            name = f"{version['role']}/{version['version'] or Path(version['path']).name}"
            facet = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version["sha256"])
            found[f"{name} {version['sha256']}"] = InputDataset(
                namespace=_NAMESPACE, name=name, facets={"version": facet}
            )
    return list(found.values())


def _lineage_dataset(dataset: LineageDataset) -> OutputDataset:
    return _output(dataset.uri)


def _output(
    uri: str, *, rows: int | None = None, files: int | None = None, size: int | None = None, schema: Any = None
) -> OutputDataset:
    namespace, name = _named(uri)
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=rows, fileCount=files, size=size
    )
    return OutputDataset(
        namespace=namespace,
        name=name,
        facets={"schema": schema} if schema else {},
        outputFacets={"outputStatistics": statistics} if (rows, files, size) != (None, None, None) else {},
    )


def _schema_of(data: bytes) -> schema_dataset.SchemaDatasetFacet:
    schema = pq.read_schema(pa.BufferReader(data))
    fields = [schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(field.type)) for field in schema]
    return schema_dataset.SchemaDatasetFacet(fields=fields)


def _named(uri: str) -> tuple[str, str]:
    """Namespace and name of a place, as OpenLineage's naming asks for: `s3://bucket` and key, `file` and path."""
    uri = without_credentials(uri)
    if scheme_of(uri) in ("", "file"):
        return "file", str(Path(uri.removeprefix("file://")).absolute())
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/") or "/"
