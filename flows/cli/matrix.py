"""`crossroads manifest expand`: from a scenario matrix to a manifest and an account of what it covers."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cosmos_core.errors import BadConfig
from flows.cli.tables import make_console
from tasks.manifest import write_manifest
from tasks.matrix_expansion import Coverage, Expansion, expand_matrix
from tasks.scenario_matrix import AXES, ScenarioMatrix, load_matrix

__all__ = ["expand"]


class Reduce(StrEnum):
    """How many of the allowed cells are taken."""

    NONE = "none"
    PAIRWISE = "pairwise"


def expand(
    source: Annotated[Path, typer.Argument(metavar="MATRIX", help="Scenario matrix, a YAML file.")],
    target: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Manifest to write; its suffix (.parquet .json .jsonl .csv) is the format."),
    ],
    reduce: Annotated[
        Reduce | None, typer.Option(help="Take all allowed cells, or few with every pair; default: what MATRIX says.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Take at most N, spread evenly.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the coverage as JSON instead of tables.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT and its coverage if they exist.")] = False,
) -> None:
    """Write every scenario of a matrix into a manifest, and what is covered beside it (OUT.coverage.json)."""
    matrix = load_matrix(source)
    beside = target.with_name(f"{target.name}.coverage.json")
    if not force and (taken := next((path for path in (target, beside) if path.exists()), None)):
        raise BadConfig("the target exists", got=taken, expected="a new file", fix="Pass --force to replace it")
    expansion = expand_matrix(matrix, reduce=reduce.value if reduce else None, limit=limit)
    write_manifest(expansion.rows, target)
    document = _document(matrix, expansion, source)
    beside.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    console = make_console()
    console.print(_fate_table(expansion.coverage))
    console.print(_axes_table(expansion.coverage))
    console.print(Text(f"{target}: {len(expansion.rows)} scenarios; coverage in {beside}"))


def _document(matrix: ScenarioMatrix, expansion: Expansion, source: Path) -> dict[str, Any]:
    about = {"matrix": matrix.id, "version": matrix.version, "sha256": matrix.sha256, "source": source.name}
    return about | asdict(expansion.coverage)


def _fate_table(coverage: Coverage) -> Table:
    table = Table("cells", "of the matrix", "why", title="What became of the matrix", title_justify="left")
    table.columns[0].justify = "right"
    table.add_row(str(coverage.cells), "in all", " x ".join(AXES))
    for rule, number in coverage.excluded_by.items():
        table.add_row(str(number), "excluded", Text(rule))
    for reason, number in coverage.impossible_because.items():
        table.add_row(str(number), "impossible", Text(reason))
    if coverage.duplicates:
        table.add_row(str(coverage.duplicates), "duplicates", "the same scenario under another name")
    if coverage.reduced:
        table.add_row(str(coverage.reduced), "left out", "pairwise reduction or limit")
    pairs = f"{coverage.pairs_taken} of {coverage.pairs_possible} possible pairs of values"
    table.add_row(str(coverage.scenarios), "scenarios", pairs, style="bold")
    return table


def _axes_table(coverage: Coverage) -> Table:
    table = Table("axis", "value", "scenarios", "possible", title="Coverage", title_justify="left")
    for number in (2, 3):
        table.columns[number].justify = "right"
    last = None
    for item in coverage.axes:
        if last not in (None, item.axis):
            table.add_section()
        style = "" if item.taken else "yellow"
        name = item.axis if item.axis != last else ""
        table.add_row(name, Text(item.value), str(item.taken), str(item.possible), style=style)
        last = item.axis
    return table
