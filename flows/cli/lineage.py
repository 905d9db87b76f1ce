"""`crossroads lineage`: what made this, what did this make, what must be made again if it is withdrawn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cosmos_core.errors import BadConfig, BadRequest
from flows.cli.tables import cell, make_console
from tasks.lineage_answers import RunAnswer, VersionAnswer, VideoAnswer, answer, places_of
from tasks.lineage_dataset import LineageDataset, find_lineage, open_lineage
from tasks.storage import open_store

__all__ = ["lineage"]

_SHOWN = 20
_PARAMETERS = (
    "model", "resolution", "fps", "aspect_ratio", "seed", "guidance", "num_steps", "num_conditional_frames",
    "num_chunks",
)  # fmt: skip


def lineage(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEO|RECORD|ADAPTER|RUN",
            help="Path, address or hash of a video; a record; path, name, version or hash of a model file; a run's id.",
        ),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option("--lineage", metavar="DIR", help="Folder or s3:// prefix; default: CROSSROADS_LINEAGE, --config."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run configuration whose `lineage` is used if none is named.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    collect: Annotated[
        str | None, typer.Option(metavar="OUTPUT", help="Add the rows that a run could not write, from its records.")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Merge the files of many runs into few.")] = False,
) -> None:
    """Say what made a video; or what a version made, and what must be made again if it is withdrawn."""
    if (target is not None) + (collect is not None) + compact != 1:
        raise typer.BadParameter("give one thing to look up, or --collect OUTPUT, or --compact")
    named = find_lineage(place, _configured(config), collect)
    if target is not None:
        _look_up(target, named, as_json=as_json)
    elif named is None:
        raise BadConfig("no lineage dataset is named", fix="Give --lineage, or set CROSSROADS_LINEAGE")
    elif collect is not None:
        from tasks.lineage_rows import collect_lineage

        number = collect_lineage(open_lineage(named, create=True), open_store(collect, for_writing=False))
        typer.echo(f"{number} records of {collect} are in {named}")
    else:
        from tasks.lineage_compaction import compact as merge

        merged, into = merge(open_lineage(named))
        typer.echo(f"{merged} files merged into {into}" if merged else "nothing to merge")


def _configured(config: Path | None) -> str | None:
    from tasks.config import load_config

    return load_config(config).lineage if config else None


def _look_up(target: str, named: str | None, *, as_json: bool) -> None:
    from tasks.run import home_folder

    found = answer(_dataset(target, named), target, hash_cache=home_folder() / "hashes")
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2, default=_plain))
        return
    console = make_console()
    if isinstance(found, VideoAnswer):
        _show_video(console, found)
    elif isinstance(found, VersionAnswer):
        _show_version(console, found)
    else:
        _show_run(console, found)


def _dataset(target: str, named: str | None) -> LineageDataset | None:
    """The dataset that was named, or that a video or record leads to."""
    if named is not None:
        return open_lineage(named)
    for place in places_of(target):
        try:
            return open_lineage(place)
        except BadRequest:
            continue
    return None


def _show_video(console: Console, found: VideoAnswer) -> None:
    row = found.row
    facts = {
        "video": row["video_uri"] or "none",
        "status": f"{row['status']}{', replaced by a later run' if found.replaced else ''}",
        "sha256": row["output_sha256"],
        "input": f"{row['input_uri']}  sha256 {_short(row['input_sha256'])}",
        "prompt": row["refined_prompt"] or row["prompt"],
        "parameters": ", ".join(f"{name} {row[name]}" for name in _PARAMETERS),
        "decision": f"{row['action']} by {row['policy_id']} v{row['policy_version']}",
        "checks": ", ".join(
            f"{verdict['stage']}/{verdict['check']} {verdict['status']}" for verdict in row["verdicts"]
        ),
        "review": f"{row['review']} by {row['reviewed_by']}" if row["review"] else None,
        "code": f"{row['code_package']}, core {row['code_core']}, commit {_short(row['code_commit'])}"
        + (" with changes" if row["code_dirty"] else ""),
        "machine": ", ".join(f"{name} {value}" for name, value in row["environment"]),
        "manifest": f"{row['manifest_uri']}, row {row['row_number']}  sha256 {_short(row['manifest_sha256'])}",
        "run": f"{row['run_id']}, finished {row['finished_at']:%Y-%m-%d %H:%M:%S} UTC",
        "generated by": ", ".join(f"{name} {value}" for name, value in row["generated_by"]),
        "record": row["record_uri"],
    }
    table = Table(show_header=False, title=row["scenario_id"], title_justify="left")
    for name, value in facts.items():
        if value:
            table.add_row(name, cell(str(value), 2000))
    console.print(table)
    console.print(_versions(row["versions"]))


def _show_version(console: Console, found: VersionAnswer) -> None:
    console.print(_versions([found.version], title="version"))
    if found.parents:
        console.print(_versions(found.parents, title="made from"))
    if found.derived:
        console.print(_versions(found.derived, title="made from it, and withdrawn with it"))
    names = {fact["sha256"]: fact["version"] or fact["name"] for fact in (found.version, *found.derived)}
    runs = found.runs()
    console.print(
        f"{found.num_own} videos were made with it, {len(found.videos) - found.num_own} with what derives from it"
    )
    table = Table("run", "manifest", "videos", "to be made again")
    for run in runs[:_SHOWN]:
        cells = (run["run_id"], run["manifest_uri"], str(run["num_videos"]), str(run["num_current"]))
        table.add_row(*(cell(text) for text in cells))
    if runs:
        console.print(table)
    if len(runs) > _SHOWN:
        console.print(f"and {len(runs) - _SHOWN} more runs")
    console.print(f"If it is withdrawn, {found.num_current} videos must be made again")
    current = found.videos.filter(found.videos.column("current"))
    for row in current.slice(0, _SHOWN).to_pylist():
        console.print(cell(f"  {row['video_uri']}  ({names[row['because']]})", 500), soft_wrap=True)
    if len(current) > _SHOWN:
        console.print(f"  and {len(current) - _SHOWN} more: --json has all of them")


def _show_run(console: Console, found: RunAnswer) -> None:
    first = found.rows[0]
    table = Table(show_header=False, title=f"run {found.run_id}", title_justify="left")
    table.add_row("manifest", cell(f"{first['manifest_uri']}  sha256 {_short(first['manifest_sha256'])}", 500))
    table.add_row(
        "code", cell(f"{first['code_package']}, core {first['code_core']}, commit {_short(first['code_commit'])}")
    )
    table.add_row("made", cell(", ".join(f"{number} {status}" for status, number in found.statuses.items())))
    console.print(table)
    console.print(_versions(found.versions, title="used"))
    for row in found.rows[:_SHOWN]:
        console.print(cell(f"  {row['scenario_id']}  {row['status']}  {row['video_uri'] or ''}", 500), soft_wrap=True)
    if len(found.rows) > _SHOWN:
        console.print(f"  and {len(found.rows) - _SHOWN} more: --json has all of them")


def _versions(versions: Iterable[dict[str, Any]], *, title: str = "made with") -> Table:
    table = Table("role", "name", "version", "sha256", "made from", "where", title=title, title_justify="left")
    for fact in versions:
        origin = ", ".join(_short(fact[name]) for name in ("parent_sha256", "source_sha256") if fact[name])
        strength = f" at strength {fact['strength']:g}" if fact["strength"] is not None else ""
        cells = (
            fact["role"],
            fact["name"] + strength,
            fact["version"] or "",
            _short(fact["sha256"]),
            origin,
            fact["path"],
        )
        table.add_row(*(cell(text or "") for text in cells))
    return table


def _short(text: str | None) -> str:
    return text[:12] if text else "unknown"


def _as_json(found: VideoAnswer | VersionAnswer | RunAnswer) -> dict[str, Any]:
    if isinstance(found, VideoAnswer):
        return {"kind": "video", "replaced": found.replaced, "row": _mapped(found.row)}
    if isinstance(found, VersionAnswer):
        return {
            "kind": "version",
            "version": found.version,
            "parents": found.parents,
            "derived": found.derived,
            "num_own": found.num_own,
            "num_to_make_again": found.num_current,
            "runs": found.runs(),
            "videos": found.videos.to_pylist(),
        }
    return {
        "kind": "run",
        "run_id": found.run_id,
        "statuses": found.statuses,
        "versions": found.versions,
        "rows": [_mapped(row) for row in found.rows],
    }


def _mapped(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its maps as objects and its configuration as what it is."""
    maps = {name: dict(row[name]) for name in ("labels", "packages", "environment", "generated_by", "timings_s")}
    return row | maps | {"config": json.loads(row["config"])}


def _plain(value: object) -> str:
    assert isinstance(value, datetime), f"{type(value)} has no place in a row"
    return value.isoformat()
