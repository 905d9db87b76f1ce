"""The flow that looks after what runs have left: held clips expire, and files are compared with their records."""

from __future__ import annotations

from datetime import timedelta

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import NonNegativeInt

from tasks.file_verification import Finding, outputs_below, verify_output
from tasks.quarantine_expiry import expire_quarantine
from tasks.registry import open_registry
from tasks.storage import Store, open_store

__all__ = ["maintain"]

_MAX_ROWS = 500


@flow(name="maintenance", persist_result=False)
def maintain(
    output: str, expire_after_days: NonNegativeInt | None = None, verify: bool = True, registry: str | None = None
) -> State:
    """Expire held clips and verify the files of one run's output, or of all outputs in a folder.

    Args:
        output: output of a run, or a folder or s3:// prefix with such outputs directly below it.
        expire_after_days: remove the pictures of held clips that nobody touched for so long; without it none.
        verify: read every video again and compare it with its record; the audit log as well.
        registry: registry whose versions without an alias are listed; nothing is removed from it.
    """
    place = open_store(output, for_writing=False)
    findings: list[Finding] = []
    num_removed = num_videos = 0
    stores = outputs_below(place)
    for store in stores:
        if expire_after_days is not None:
            num_removed += expire(store, expire_after_days)
        if verify:
            number, found = verify_files(store)
            num_videos, findings = num_videos + number, findings + found
    if registry is not None:
        list_unnamed_versions(registry)
    summary = f"{len(stores)} outputs: {num_videos} videos read, {len(findings)} problems, {num_removed} files expired"
    if findings:
        rows = [{"output": row.output, "file": row.name, "problem": row.problem} for row in findings[:_MAX_ROWS]]
        create_table_artifact(rows, key="maintenance-problems", description="Files that are not as recorded")
        return Failed(message=summary)
    return Completed(message=summary)


@task(name="expire-quarantine", task_run_name="expire-{store.uri}", cache_policy=NO_CACHE, persist_result=False)
def expire(store: Store, days: int) -> int:
    """Remove the pictures of old held clips; says how many files went."""
    removed = expire_quarantine(store, older_than=timedelta(days=days))
    for name in removed:
        get_run_logger().info("expired: %s", store.uri_of(name))
    return len(removed)


@task(name="verify-files", task_run_name="verify-{store.uri}", cache_policy=NO_CACHE, persist_result=False)
def verify_files(store: Store) -> tuple[int, list[Finding]]:
    """Compare every video with its record, and follow the audit log."""
    number, findings = verify_output(store)
    for row in findings:
        get_run_logger().error("%s: %s %s", row.output, row.name, row.problem)
    return number, findings


@task(name="list-unnamed-versions", cache_policy=NO_CACHE, persist_result=False)
def list_unnamed_versions(place: str) -> None:
    """Show registered versions that no alias names. Records speak of them, so nothing is removed."""
    registry = open_registry(place)
    rows = []
    for name in registry.names():
        named = {move.to_version for move in registry.aliases(name)}
        rows += [
            {"version": version.id, "registered": version.registered_at.isoformat(), "sha256": version.sha256}
            for version in registry.versions(name)
            if version.number not in named
        ]
    if rows:
        create_table_artifact(rows[:_MAX_ROWS], key="versions-without-alias", description="Versions without an alias")
