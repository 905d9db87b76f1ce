"""What `crossroads lineage` answers: a target is recognised, and the dataset is asked in the direction that it implies.

A video or a record asks what made it; a version asks what it made and what falls with it; a run asks for both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pydantic import ValidationError

from cosmos_core.errors import BadRequest
from cosmos_core.hashing import sha256_file
from tasks.file_versions import hash_path
from tasks.lineage_dataset import LineageDataset, Part
from tasks.lineage_query import Version, derived_versions, find_runs, find_versions, rows_of, videos_of
from tasks.lineage_schema import lineage_row
from tasks.records import Record
from tasks.storage import open_store

__all__ = ["RunAnswer", "VersionAnswer", "VideoAnswer", "answer", "places_of"]

Row = dict[str, Any]

_SHA256_START = re.compile(r"[0-9a-f]{8,64}")
_VIDEO_SUFFIX, _RECORD_SUFFIX = ".mp4", ".json"


@dataclass(frozen=True, slots=True)
class VideoAnswer:
    """What made a video."""

    row: Row
    """The fields of the lineage schema."""
    replaced: bool
    """Whether a later run put something else at its address, as far as the dataset knows."""


@dataclass(frozen=True, slots=True)
class VersionAnswer:
    """What a version made, and what must be made again if it is withdrawn."""

    version: Version
    parents: tuple[Version, ...]
    """Known versions that it was made from."""
    derived: tuple[Version, ...]
    """Known versions that were made from it, which fall with it."""
    videos: pa.Table
    """See `videos_of`: those of the version itself, and those of what is derived from it."""

    @property
    def num_own(self) -> int:
        """Videos that the version itself had a part in."""
        return self.videos.column("because").to_pylist().count(self.version["sha256"])

    @property
    def num_current(self) -> int:
        """Videos to be made again."""
        return self.videos.column("current").to_pylist().count(True)

    def runs(self) -> list[Row]:
        """The runs that made them: id, manifest, number of videos, number of those that are current."""
        columns = ["run_id", "manifest_uri", "current"]
        counts = self.videos.select(columns).group_by(columns[:2]).aggregate([("current", "count"), ("current", "sum")])
        names = {"current_count": "num_videos", "current_sum": "num_current"}
        return [{names.get(name, name): value for name, value in row.items()} for row in counts.to_pylist()]


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """What a run used and what it made."""

    run_id: str
    rows: tuple[Row, ...]
    """One for each scenario that came to its end in it."""
    versions: tuple[Version, ...]

    @property
    def statuses(self) -> dict[str, int]:
        return dict(Counter(row["status"] for row in self.rows))


def places_of(target: str) -> tuple[str, ...]:
    """Where the dataset of a video or record may be: as its record says, and in the output that it lies in."""
    if Path(target).suffix not in (_VIDEO_SUFFIX, _RECORD_SUFFIX):
        return ()
    record = _local_record(target)
    output = target.rsplit("/", 2)[0] if target.count("/") >= 2 else str(Path(target).absolute().parent.parent)
    return tuple(place for place in (record.lineage if record else None, f"{output}/lineage") if place)


def answer(dataset: LineageDataset | None, target: str, *, hash_cache: Path) -> VideoAnswer | VersionAnswer | RunAnswer:
    """The answer to a target: path or address of a video or record; path, name or hash of a version; id of a run.

    Args:
        dataset: None if there is none; then only a local record can be answered from.
        hash_cache: see `hash_path`.

    Raises:
        BadRequest: nothing or more than one thing is known by that name.
    """
    record = _local_record(target)
    if dataset is None:
        if record is not None:
            return VideoAnswer(row=_row_of(record, target), replaced=False)
        raise BadRequest(
            "no lineage dataset is named", got=target, fix="Give --lineage, or set CROSSROADS_LINEAGE; a run makes one"
        )
    found = dataset.ask(lambda parts: _look_up(dataset, parts, target, record, hash_cache))
    if found is None and record is not None:
        return VideoAnswer(row=_row_of(record, target), replaced=False)
    if found is None:
        raise BadRequest(
            f"nothing in {dataset.uri} is known by this name",
            got=target,
            expected="a video, a record, a version (file, name, hash), or the id of a run",
            fix="If a run was cut short, add its rows with `crossroads lineage --collect OUTPUT`",
        )
    return found


def _look_up(
    dataset: LineageDataset, parts: Sequence[Part], target: str, record: Record | None, hash_cache: Path
) -> VideoAnswer | VersionAnswer | RunAnswer | None:
    path = Path(target)
    if record is not None:
        where = (ds.field("run_id") == record.run_id) & (ds.field("scenario_id") == record.scenario_id)
        return _video(dataset, parts, where)
    if path.suffix in (_VIDEO_SUFFIX, _RECORD_SUFFIX):
        address = target if "://" in target else str(path.absolute())
        where = (ds.field("video_uri") == address) | (ds.field("record_uri") == address)
        if path.is_file():
            where = ds.field("output_sha256") == sha256_file(path)
        return _video(dataset, parts, where)
    if path.exists():
        target = hash_path(path, hash_cache).sha256
    versions = {version["sha256"]: version for version in find_versions(parts, target) if version["sha256"]}
    if versions:
        names = [f"{fact['name']} {fact['version'] or ''} {key[:12]}" for key, fact in versions.items()]
        _require_one(target, [" ".join(name.split()) for name in names])
        return _version(dataset, parts, *versions.values())
    if runs := find_runs(parts, target):
        _require_one(target, runs)
        return _run(dataset, parts, *runs)
    if _SHA256_START.fullmatch(target):
        last = f"{target}g"  # sorts behind every hash that begins so
        return _video(dataset, parts, (ds.field("output_sha256") >= target) & (ds.field("output_sha256") < last))
    return None


def _video(dataset: LineageDataset, parts: Sequence[Part], where: ds.Expression) -> VideoAnswer | None:
    rows = rows_of(dataset, parts, where)
    if not rows:
        return None
    same_place = ds.field("record_uri") == rows[-1]["record_uri"]
    newest = max(dataset.table(parts, ["finished_at"], where=same_place).column("finished_at").to_pylist())
    return VideoAnswer(row=rows[-1], replaced=newest > rows[-1]["finished_at"])


def _version(dataset: LineageDataset, parts: Sequence[Part], version: Version) -> VersionAnswer:
    derived = derived_versions(parts, [version["sha256"]])
    parents = {version[field] for field in ("parent_sha256", "source_sha256")} - {None}
    known = {fact["sha256"]: fact for part in parts for fact in part.versions if fact["sha256"] in parents}
    return VersionAnswer(
        version=version,
        parents=tuple(known.values()),
        derived=tuple(derived.values()),
        videos=videos_of(dataset, parts, [version["sha256"], *derived]),
    )


def _run(dataset: LineageDataset, parts: Sequence[Part], run_id: str) -> RunAnswer:
    rows = rows_of(dataset, [part for part in parts if run_id in part.runs], ds.field("run_id") == run_id)
    used = {
        (version["role"], version["sha256"], version["version"]): version | {"strength": None}
        for row in rows
        for version in row["versions"]
    }
    return RunAnswer(run_id=run_id, rows=tuple(rows), versions=tuple(used.values()))


def _require_one(target: str, found: Sequence[str]) -> None:
    if len(found) > 1:
        raise BadRequest(f"{target} may mean several things", expected=f"one of {', '.join(sorted(found))}")


def _local_record(target: str) -> Record | None:
    path = Path(target)
    if path.suffix != _RECORD_SUFFIX or not path.is_file():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise BadRequest(f"{target} is no record", got=error.errors()[0]["msg"]) from error


def _row_of(record: Record, target: str) -> Row:
    """The row that the dataset would have of a record."""
    return lineage_row(record, open_store(str(Path(target).absolute().parent.parent), for_writing=False))
