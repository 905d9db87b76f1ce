"""`crossroads audit`: read the decision log of an output, and find out whether it is whole."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.audit import AuditLog, AuditRow
from tasks.audit_verification import verify_audit
from tasks.storage import open_store

__all__ = ["app"]

_PIPED_WIDTH = 200
_SHOWN_PROBLEMS = 50

app = typer.Typer(no_args_is_help=True, help="Read and verify the log of guardrail decisions.")

Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Output of a run: folder or s3:// prefix.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def verify(
    output: Output,
    head: Annotated[
        str | None, typer.Option(metavar="HASH", help="Head that an earlier verification printed; it must be there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find records that were changed, are missing or stand elsewhere; exit code 1 if there are any."""
    report = verify_audit(open_store(output, for_writing=False), head=head)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        for problem in report.problems[:_SHOWN_PROBLEMS]:
            typer.echo(_printable(problem))
        if len(report.problems) > _SHOWN_PROBLEMS:
            typer.echo(f"and {len(report.problems) - _SHOWN_PROBLEMS} more")
        found = f"{len(report.problems)} problems" if report.problems else "whole"
        typer.echo(
            f"{report.num_records} records in {report.num_files} files, {report.num_scenarios} scenarios: {found}"
        )
        typer.echo(f"head {report.head}")
    if not report.is_whole:
        raise typer.Exit(1)


@app.command()
def show(
    output: Output,
    scenario: Annotated[str | None, typer.Option(metavar="ID", help="Only of this scenario.")] = None,
    category: Annotated[str | None, typer.Option(metavar="NAME", help="Only checks that flagged this.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only check, decision or review.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print the log, oldest first."""
    rows = [
        row
        for row in AuditLog(open_store(output, for_writing=False)).rows()
        if scenario in (None, row.scenario_id)
        and kind in (None, row.kind)
        and (category is None or category in (row.category, *row.other_categories))
    ]
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
        return
    table = Table("record", "when", "scenario", "kind", "what", "result", "by")
    for row in rows:
        cells = (
            str(row.sequence),
            f"{row.recorded_at:%Y-%m-%d %H:%M:%S}",
            row.scenario_id,
            row.kind,
            f"{row.stage}/{row.check}" if row.kind == "check" else "; ".join(row.reasons) or row.note or "",
            _result(row),
            row.actor or " ".join(filter(None, (row.backend, row.model))) or f"{row.policy_id} v{row.policy_version}",
        )
        table.add_row(*(Text(_printable(cell), overflow="fold") for cell in cells))
    Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False).print(table)


def _result(row: AuditRow) -> str:
    if row.kind != "check":
        return row.action or ""
    score = "" if row.score is None else f" {row.score:.2f}"
    return f"{row.status} {', '.join(filter(None, (row.category, *row.other_categories)))}{score}".strip()


def _printable(text: str) -> str:
    """Foreign text without characters that would move the terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)
