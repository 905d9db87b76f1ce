"""The flow that looks into an inbox and starts one run for each new manifest, however many watchers there are."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from cosmos_core.errors import BadConfig, BadManifest, BadRequest, StorageUnavailable
from tasks.config import RunConfig, load_config
from tasks.inbox import DEPLOYMENT, keep_manifest, results_of
from tasks.inbox_drops import Drop, waiting_drops, write_receipt
from tasks.manifest import Manifest, read_manifest
from tasks.manifest_events import tell_received, tell_refused
from tasks.manifest_source import read_source
from tasks.run_request import RunRequest, start_once
from tasks.storage import Store, open_store

__all__ = ["watch_inbox"]


@flow(name="watch-inbox", persist_result=False)
def watch_inbox(
    inbox: str,
    output: str | None = None,
    config: str | None = None,
    deployment: str = DEPLOYMENT,
    settle_s: float = 5.0,
) -> State:
    """Look into an inbox once: start a run for each new manifest, refuse what is none, leave everything where it lies.

    Args:
        inbox: folder or s3:// prefix that manifests are dropped into, with or without the frames they name.
        output: folder or s3:// prefix for results, a folder for each manifest; default: `results` in the inbox.
        config: run configuration of the runs: a YAML file, or the name of a shipped one.
        deployment: what to start, as `flow/deployment`.
        settle_s: seconds that a local file must have been left alone, so that none is taken while it is written.
    """
    settings = load_config(Path(config) if config else None)
    store = open_store(inbox)
    results = output or store.uri_of("results")
    drops, fresh = waiting_drops(store, settle_s=settle_s)
    counts = {"started": 0, "known": 0, "refused": 0, "put off": len(fresh)}
    unread: list[StorageUnavailable] = []
    for drop in drops:
        try:
            checked = _checked(store, drop, settings)
            if isinstance(checked, str):
                counts["refused"] += _refuse(store, drop, checked)
            elif _start(store, drop, checked, results=results, config=config, deployment=deployment):
                counts["started"] += 1
            else:
                counts["known"] += 1
        except StorageUnavailable as error:
            # One that cannot be read must not keep the others waiting.
            get_run_logger().warning("%s is left for the next time: %s", drop.name, error)
            unread.append(error)
    if unread:
        raise unread[0]
    return Completed(message=", ".join(f"{count} {what}" for what, count in counts.items()))


def _checked(store: Store, drop: Drop, settings: RunConfig) -> Manifest | str:
    """The manifest, or why it is refused. Some invalid rows are no reason: their run gives each its result."""
    try:
        checked = read_manifest(store.uri_of(drop.name), settings.defaults, input_root=store.uri)
    except BadConfig:
        raise  # the operator's mistake, not the sender's
    except BadRequest as error:
        return str(error)
    if not checked.rows:
        first = checked.invalid[0]
        return f"none of {checked.num_rows} rows is valid; row {first.row_number}: {first.message}"
    return checked


def _start(store: Store, drop: Drop, checked: Manifest, *, results: str, config: str | None, deployment: str) -> bool:
    try:
        copy = keep_manifest(store, drop.name, read_source(checked.uri), sha256=checked.sha256)
    except BadManifest as error:
        raise StorageUnavailable(f"{drop.name} changed while it was read", got=str(error)) from error
    parameters = {
        "manifest": copy,
        "output": results_of(results, checked.sha256),
        "config": config,
        "input_root": store.uri,
    }
    request = RunRequest(manifest_sha256=checked.sha256, deployment=deployment, parameters=parameters, title=drop.name)
    run = start_once(store, request)
    facts = {"manifest": copy, "sha256": checked.sha256, "run_id": run.run_id, "deployment": deployment}
    if write_receipt(store, drop, "received", **facts):
        tell_received(drop.id, drop.name, num_rows=checked.num_rows, num_invalid=len(checked.invalid), **facts)
        get_run_logger().info("%s: %d rows, run %s", drop.name, checked.num_rows, run.run_id)
    return run.is_new


def _refuse(store: Store, drop: Drop, reason: str) -> bool:
    if not write_receipt(store, drop, "refused", reason=reason):
        return False
    tell_refused(drop.id, drop.name, reason=reason)
    get_run_logger().warning("%s is refused: %s", drop.name, reason)
    return True
