"""What a person sees of a run in the Prefect UI: a progress bar, a table of outcomes, a page with links."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.device_time import device_time
from tasks.progress import Progress

__all__ = ["ProgressArtifact", "publish_results_artifacts"]

_MAX_TABLE_ROWS = 1000
_MAX_PAGE_ROWS = 100


class ProgressArtifact:
    """The progress bar of a run, updated at most every two seconds: an update costs 50 ms."""

    def __init__(self, progress: Progress, *, interval_s: float = 2.0) -> None:
        self._progress = progress
        self._interval_s = interval_s
        self._updated = time.monotonic()
        created = create_progress_artifact(0.0, key="progress", description="Share of the run that is done")
        assert isinstance(created, UUID)
        self._id = created

    def update(self, *, force: bool = False) -> None:
        """Show where the run stands."""
        if force or time.monotonic() - self._updated >= self._interval_s:
            update_progress_artifact(self._id, progress=round(100 * self._progress.fraction, 1))
            self._updated = time.monotonic()


def publish_results_artifacts(rows: Sequence[dict[str, Any]], *, output_uri: str) -> None:
    """The results of a run: a searchable table, a page with links, and the queue of what waits for a person."""
    ordered = sorted(rows, key=lambda row: row["row_number"])
    create_table_artifact(
        [_table_row(row) for row in ordered[:_MAX_TABLE_ROWS]],
        key="results",
        description=f"Outcome of each scenario (first {_MAX_TABLE_ROWS}); all: {output_uri}/results.parquet",
    )
    create_markdown_artifact(_page(ordered, output_uri), key="results-page", description="Outcomes with links")
    create_markdown_artifact(_review_page(ordered, output_uri), key="review-queue", description="Held clips")


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "row": row["row_number"],
        "scenario": _name(row),
        "status": row["status"],
        "seconds": round(row["seconds"], 1) if row["seconds"] is not None else "",
        "reused": row["reused"],
        "reason": row["reason"],
        "redacted": _redacted(row),
        "review": _review(row),
        "video": row["video_uri"] or "",
        "record": row["record_uri"] or "",
    }


def _name(row: dict[str, Any]) -> str:
    return row["scenario_id"] or row["output_name"] or ""


def _redacted(row: dict[str, Any]) -> str:
    return ", ".join(f"{number} {name}" for name, number in row["num_redacted"] or ())


def _review(row: dict[str, Any]) -> str:
    if row["review"] is None:
        return "to be reviewed" if row["status"] == "quarantined" and row["evidence_uris"] else ""
    review = json.loads(row["review"])
    return f"{review['verdict']} by {review['by']}"


def _page(rows: Sequence[dict[str, Any]], output_uri: str) -> str:
    lines = [
        f"**Output** {_link(output_uri, output_uri)} · {_link('contact sheet', output_uri + '/index.html')}"
        f" · device time: {device_time(rows) or 'none'}",
        "",
        "| row | scenario | status | reason | redacted | video or evidence | record |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows[:_MAX_PAGE_ROWS]:
        cells = [
            str(row["row_number"]),
            _name(row),
            row["status"],
            row["reason"],
            _redacted(row),
            _link("video", row["video_uri"]) if row["video_uri"] else _pictures(row),
            _link("record", row["record_uri"]) if row["record_uri"] else "",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    if len(rows) > _MAX_PAGE_ROWS:
        lines += ["", f"… and {len(rows) - _MAX_PAGE_ROWS} more in `{output_uri}/results.parquet`"]
    return "\n".join(lines)


def _review_page(rows: Sequence[dict[str, Any]], output_uri: str) -> str:
    """What waits for a person, with everything that the person needs."""
    held = [row for row in rows if row["status"] == "quarantined" and row["evidence_uris"]]
    waiting = [row for row in held if row["review"] is None]
    lines = [f"{len(waiting)} clips wait for a person, {len(held) - len(waiting)} were rejected.", ""]
    for row in waiting[:_MAX_PAGE_ROWS]:
        lines += [
            f"### {_name(row)}",
            row["reason"],
            "",
            f"> {' '.join((row['prompt'] or '').split())}",
            "",
            _pictures(row),
            "",
            "```",
            *(f"crossroads review {command}" for command in _commands(row["scenario_id"], output_uri)),
            "```",
        ]
    if len(waiting) > _MAX_PAGE_ROWS:
        lines += [f"… and {len(waiting) - _MAX_PAGE_ROWS} more: `crossroads review list {output_uri}`"]
    return "\n".join(lines)


def _commands(scenario_id: str, output_uri: str) -> list[str]:
    place = shlex.join([output_uri, scenario_id])
    return [f"show {place}"] + [f"{verb} {place} --by NAME --reason TEXT" for verb in ("approve", "reject")]


def _pictures(row: dict[str, Any]) -> str:
    return " ".join(_link(f"picture {n}", uri) for n, uri in enumerate(row["evidence_uris"] or (), 1))


def _link(text: str, uri: str) -> str:
    return f"[{text}]({uri if '://' in uri else 'file://' + uri})"
