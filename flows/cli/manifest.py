"""`crossroads manifest`: look at a manifest before anything expensive starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cosmos_core.errors import BadConfig
from flows.cli import matrix
from flows.cli.tables import cell, make_console
from tasks.manifest import InvalidRow, Manifest, parse_manifest, read_manifest, schema_document, write_manifest
from tasks.scenario import Scenario, ScenarioDefaults, ScenarioRow

__all__ = ["EXIT_SOME_INVALID", "app", "invalid_table", "load_defaults", "summary"]

EXIT_SOME_INVALID = 3

app = typer.Typer(no_args_is_help=True, help="Check, show and convert scenario manifests.")
app.command()(matrix.expand)

ManifestUri = Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet, JSON, JSON Lines or CSV; path or URI.")]
InputRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder or s3:// prefix that inputs begin at; default: the manifest's folder."),
]
Config = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Run configuration whose defaults fill what rows leave open.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def load_defaults(config: Path | None) -> ScenarioDefaults:
    """The defaults that a run with this configuration would use; without one, the shipped configuration's."""
    from tasks.config import load_config

    return load_config(config).defaults


@app.command()
def validate(
    manifest: ManifestUri, input_root: InputRoot = None, config: Config = None, as_json: AsJson = False
) -> None:
    """Check every row. Exit code 0: all valid, 3: some rows invalid, 1: the manifest cannot be read."""
    checked = read_manifest(manifest, load_defaults(config), input_root=input_root)
    if as_json:
        typer.echo(json.dumps(_report(checked), indent=2))
    else:
        console = make_console()
        if checked.invalid:
            console.print(invalid_table(checked.invalid))
        console.print(summary(checked))
    if checked.invalid:
        raise typer.Exit(EXIT_SOME_INVALID)


@app.command()
def show(
    manifest: ManifestUri,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Rows to show.")] = 20,
    input_root: InputRoot = None,
    config: Config = None,
) -> None:
    """Show the rows as a run would take them, defaults filled in."""
    checked = read_manifest(manifest, load_defaults(config), input_root=input_root)
    console = make_console()
    console.print(_rows_table(checked, limit))
    if checked.num_rows > limit:
        console.print(f"{checked.num_rows - limit} more rows: raise --limit to see them.")
    console.print(summary(checked))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Manifest to read; path or URI.")],
    target: Annotated[
        Path,
        typer.Argument(metavar="DST", help="File to write; its suffix (.parquet .json .jsonl .csv) is the format."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace DST if it exists.")] = False,
) -> None:
    """Write a manifest in another format, with what its rows give and nothing else. Inputs are not looked at."""
    parsed = parse_manifest(source)
    rows = [row for row in parsed.rows if isinstance(row, ScenarioRow)]
    console = make_console()
    if invalid := [row for row in parsed.rows if isinstance(row, InvalidRow)]:
        console.print(invalid_table(invalid))
        console.print(
            Text(f"Nothing written: {len(invalid)} of {len(parsed.rows)} rows are invalid. Repair them first.")
        )
        raise typer.Exit(EXIT_SOME_INVALID)
    if target.exists() and not force:
        raise BadConfig("the target exists", got=target, expected="a new file", fix="Pass --force to replace it")
    write_manifest(rows, target)
    console.print(Text(f"{target}: {len(rows)} rows"))
    if _moved(source, target):
        console.print(
            Text("Relative inputs begin at the manifest's folder, which is another one now: see --input-root.")
        )


@app.command()
def schema(as_json: AsJson = False) -> None:
    """Print the columns of a manifest."""
    document = schema_document()
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return
    table = Table("column", "type", "required", "also", "meaning", title=f"Manifest, version {document['version']}")
    for column in document["columns"]:
        required = "yes" if column["required"] else ""
        cells = (column["name"], column["type"], required, " ".join(column["aliases"]), column["description"])
        table.add_row(*map(Text, cells))
    make_console().print(table)


def summary(manifest: Manifest) -> Text:
    """One line about a whole manifest."""
    return Text(
        f"{manifest.uri}: {manifest.num_rows} rows, {len(manifest.rows)} valid, {len(manifest.invalid)} invalid "
        f"({manifest.format}, sha256 {manifest.sha256[:12]})"
    )


def _report(manifest: Manifest) -> dict[str, object]:
    return {
        "manifest": manifest.uri,
        "sha256": manifest.sha256,
        "format": manifest.format,
        "num_rows": manifest.num_rows,
        "num_valid": len(manifest.rows),
        "num_invalid": len(manifest.invalid),
        "invalid": [dataclasses.asdict(row) for row in manifest.invalid],
    }


def invalid_table(rows: list[InvalidRow] | tuple[InvalidRow, ...]) -> Table:
    """Every problem of every invalid row."""
    table = Table("row", "scenario", "field", "got", "expected", title="Invalid rows")
    for row in rows:
        name: tuple[str, str] = (str(row.row_number), row.scenario_id or "")
        for problem in row.problems:
            got = f"{problem.got} ({problem.what})" if problem.what else problem.got
            expected = f"{problem.expected}. {problem.fix}" if problem.fix else problem.expected
            table.add_row(*(cell(text, limit=500) for text in (*name, problem.field, got, expected)))
            name = ("", "")
    return table


def _rows_table(manifest: Manifest, limit: int) -> Table:
    table = Table("row", "scenario", "input", "prompt", "settings", "output name", show_lines=True)
    everything: list[Scenario | InvalidRow] = [*manifest.rows, *manifest.invalid]
    for row in sorted(everything, key=lambda row: row.row_number)[:limit]:
        if isinstance(row, InvalidRow):
            cells = (
                str(row.row_number),
                row.scenario_id or "",
                str(row.raw.get("input", "")),
                f"invalid: {row.message}",
            )
            table.add_row(*map(cell, cells), style="red")
        else:
            table.add_row(*map(cell, _cells(row)))
    return table


def _cells(row: Scenario) -> tuple[str, ...]:
    video = f"{row.model} {row.resolution}p {row.fps} fps {row.aspect_ratio}"
    adapters = "".join(f", {use.name}:{use.strength:g}" for use in row.adapters)
    settings = f"{video}, seed {row.seed}, {row.num_steps} steps{adapters}"
    return (str(row.row_number), row.scenario_id, row.input, row.prompt, settings, row.output_name or "")


def _moved(source: str, target: Path) -> bool:
    return "://" in source or Path(source).resolve().parent != target.resolve().parent
