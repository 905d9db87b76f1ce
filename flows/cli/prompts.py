"""`crossroads prompts`: write prompts from labels, and look at prompts before anything expensive starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cosmos_core.errors import BadConfig
from flows.cli.tables import cell, make_console
from tasks.config import RunConfig, find_config_file, load_config
from tasks.labels_file import read_labels, rows_of_labels
from tasks.lexicon import load_lexicon
from tasks.lint_words import load_lint_words
from tasks.manifest import write_manifest
from tasks.manifest_lint import LintReport, lint_manifest
from tasks.prompt_builder import build_prompt, manifest_labels
from tasks.prompt_lint import RULES, PromptLinter
from tasks.prompt_tokens import MAX_TOKENS, run_token_counter, token_counter
from tasks.template_refiner import TemplateRefiner

__all__ = ["app"]

EXIT_FINDINGS = 3
_WORDS = Path("configs/prompts/its-lint.yaml")
_STYLES = {"error": "red", "warning": "yellow"}

app = typer.Typer(no_args_is_help=True, help="Build prompts from labels and lint those of a manifest.")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def lint(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="Parquet, JSON, JSON Lines or CSV; path or URI.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if anything is found.")] = False,
    refined: Annotated[
        bool, typer.Option("--refined", help="Look at the prompts as the template refiner leaves them.")
    ] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder with the text encoder's tokenizer.json; default: the configuration's."
        ),
    ] = None,
    words: Annotated[Path, typer.Option(metavar="FILE", help="Word lists of the linter.")] = _WORDS,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Run configuration, for the lexicon and the text encoder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at every prompt of a manifest. Exit code 0, or with --strict 3 if there is any finding."""
    linter = _linter(load_config(config), words, tokenizer)
    report = lint_manifest(manifest, linter, refiner=TemplateRefiner() if refined else None)
    if as_json:
        typer.echo(json.dumps(report.as_json(linter), indent=2, ensure_ascii=False))
    else:
        console = make_console()
        if report.counts:
            console.print(_findings_table(report))
        console.print(_summary(report, linter))
    if strict and report.counts:
        raise typer.Exit(EXIT_FINDINGS)


@app.command()
def build(
    source: Annotated[Path, typer.Argument(metavar="LABELS", help="Scenarios with labels, YAML or JSON.")],
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[OUT]", help="Manifest to write; without it the prompts are shown."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build the prompt of each scenario from its labels."""
    entries = read_labels(source)
    if target is not None:
        if target.exists() and not force:
            raise BadConfig("the target exists", got=target, expected="a new file", fix="Pass --force to replace it")
        write_manifest(rows_of_labels(entries), target)
        typer.echo(f"{target}: {len(entries)} rows")
        return
    built = [{"prompt": build_prompt(labels), "labels": manifest_labels(labels)} for labels, _ in entries]
    if as_json:
        typer.echo(json.dumps(built, indent=2, ensure_ascii=False))
        return
    table = Table("scenario", "incident", "prompt", show_lines=True)
    for number, ((labels, _), item) in enumerate(zip(entries, built, strict=True)):
        table.add_row(str(number), labels.incident, cell(str(item["prompt"]), limit=2_000))
    make_console().print(table)


@app.command()
def rules(as_json: AsJson = False) -> None:
    """Print what the linter looks for."""
    if as_json:
        known = [{"id": r.id, "severity": r.severity, "about": r.about, "fix": r.fix} for r in RULES.values()]
        typer.echo(json.dumps(known, indent=2))
        return
    table = Table("rule", "severity", "what it finds", "what to do")
    for rule in RULES.values():
        table.add_row(rule.id, Text(rule.severity, style=_STYLES[rule.severity]), Text(rule.about), Text(rule.fix))
    make_console().print(table)


def _linter(config: RunConfig, words: Path, tokenizer: Path | None) -> PromptLinter:
    if tokenizer is not None and not (tokenizer / "tokenizer.json").is_file():
        raise BadConfig("--tokenizer", got=tokenizer, expected="a folder with tokenizer.json")
    return PromptLinter(
        words=load_lint_words(find_config_file(words)),
        lexicon=load_lexicon(find_config_file(config.lexicon)),
        tokens=token_counter(tokenizer) if tokenizer else run_token_counter(config),
    )


def _findings_table(report: LintReport) -> Table:
    table = Table("row", "scenario", "rule", "excerpt", "what", "how to fix it", title="Findings")
    for row in report.rows:
        name: tuple[str, str] = (str(row.row_number), row.scenario_id or "")
        for finding in row.findings:
            rule = Text(finding.rule, style=_STYLES[finding.severity])
            rest = (cell(text, limit=500) for text in (finding.excerpt, finding.message, finding.fix))
            table.add_row(*map(cell, name), rule, *rest)
            name = ("", "")
    return table


def _summary(report: LintReport, linter: PromptLinter) -> Text:
    clean = sum(not row.findings for row in report.rows)
    how = f"counted with {linter.tokens.source}" if linter.tokens.exact else "estimated, no tokenizer.json at hand"
    return Text(
        f"{report.uri}: {len(report.rows)} rows, {clean} clean, {report.counts['error']} errors, "
        f"{report.counts['warning']} warnings; tokens {how} (limit {MAX_TOKENS})"
    )
