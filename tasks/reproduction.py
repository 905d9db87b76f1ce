"""How a video that was made again compares with the one of the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from cosmos_core.errors import BadRequest
from cosmos_core.hashing import sha256_bytes
from cosmos_core.video_file import read_video
from tasks.records import Record, read_record, read_results, record_name
from tasks.rerun import Rerun, identity_changes
from tasks.storage import Store, open_store
from tasks.video_difference import VideoDifference, compare_frames

__all__ = ["Reproduction", "compare_with_record", "open_record"]


class Reproduction(BaseModel):
    """How the video that was made again compares with the record's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario_id: str
    job_id: str
    identical: bool
    """Whether the two files are equal bit for bit."""
    expected_sha256: str
    got_sha256: str
    difference: VideoDifference | None = None
    """None where the files are equal, or where the record's video is not there any more to be compared with."""
    note: str | None = None
    """Why there is no difference to tell."""
    environment: dict[str, tuple[str | None, str | None]] = {}
    """What is not as it was, by name: then and now. Of code, packages and machine."""
    video: str
    """Where the new video lies."""


def open_record(target: str) -> tuple[Store, Record]:
    """A record by path or address, and the output that it lies in.

    Raises:
        BadRequest: there is none, or none that this version can read.
    """
    address = target if "://" in target else str(Path(target).absolute())
    output, found, name = address.rpartition("/records/")
    if not found or "/" in name or not name.endswith(".json"):
        raise BadRequest("this is no record", got=target, expected="OUTPUT/records/<scenario_id>.json")
    store = open_store(output, for_writing=False)
    data = store.read_bytes(record_name(name.removesuffix(".json")))
    if data is None:
        raise BadRequest("there is no such record", got=target)
    try:
        return store, Record.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(f"{target} cannot be read as a record", got=error.errors()[0]["msg"]) from error


def compare_with_record(store: Store, record: Record, rerun: Rerun) -> Reproduction:
    """Compare what a rerun made with the video of the record.

    Args:
        store: the output of the record.

    Raises:
        BadRequest: the rerun made no video, or another job.
    """
    assert record.output is not None, "a complete record has a video"
    again_store = open_store(str(rerun.output))
    again = read_record(again_store, record.scenario_id)
    if again is None or again.output is None:
        rows = read_results(again_store) or [{"status": "not run", "reason": "the run has no results"}]
        raise BadRequest(
            f"{record.scenario_id} is {rows[0]['status']} this time",
            got=rows[0]["reason"] or "no reason",
            expected="a video",
        )
    if again.job_id != record.job_id:
        changes = identity_changes(record.identity, again.identity)
        raise BadRequest("another job was run", got=changes, expected=f"job {record.job_id}")
    facts: dict[str, Any] = {
        "scenario_id": record.scenario_id,
        "job_id": record.job_id,
        "identical": again.output.sha256 == record.output.sha256,
        "expected_sha256": record.output.sha256,
        "got_sha256": again.output.sha256,
        "environment": _environment_changes(record, again),
        "video": again_store.uri_of(again.output.video),
    }
    if facts["identical"]:
        return Reproduction(**facts)
    original = store.read_bytes(record.output.video)
    if original is None or sha256_bytes(original) != record.output.sha256:
        gone = "is gone" if original is None else "is not the one that the record names"
        return Reproduction(**facts, note=f"the video {store.uri_of(record.output.video)} {gone}")
    path = rerun.folder / "original.mp4"
    path.write_bytes(original)
    difference = compare_frames(read_video(path), read_video(rerun.output / again.output.video))
    return Reproduction(**facts, difference=difference)


def _environment_changes(then: Record, now: Record) -> dict[str, tuple[str | None, str | None]]:
    before, after = _environment(then), _environment(now)
    names = sorted(before.keys() | after.keys())
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _environment(record: Record) -> dict[str, str]:
    code = {f"code.{name}": str(value) for name, value in record.code.model_dump(exclude={"core"}).items()}
    packages = {f"package.{name}": version for name, version in record.packages.items()}
    return code | packages | record.environment
