"""Every prompt of a manifest held against the linter: one report, no row left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tasks.manifest import InvalidRow, parse_manifest
from tasks.prompt_lint import Finding, PromptLinter
from tasks.prompts import PromptRefiner
from tasks.scenario_ids import assign_ids

__all__ = ["LintReport", "LintedRow", "lint_manifest"]

ROW_INVALID = "row-invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class LintedRow:
    """One row of the manifest."""

    row_number: int
    scenario_id: str | None
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LintReport:
    """What was found in a manifest."""

    uri: str
    sha256: str
    rows: tuple[LintedRow, ...]

    @property
    def counts(self) -> Counter[str]:
        """Findings by severity."""
        return Counter(finding.severity for row in self.rows for finding in row.findings)

    def as_json(self, linter: PromptLinter) -> dict[str, Any]:
        """The report for programs, with what it was made with."""
        return {
            "manifest": self.uri,
            "sha256": self.sha256,
            "tokens": {"source": linter.tokens.source, "exact": linter.tokens.exact},
            "words": {"id": linter.words.id, "version": linter.words.version, "sha256": linter.words.sha256},
            "lexicon": {"id": linter.lexicon.id, "version": linter.lexicon.version, "sha256": linter.lexicon.sha256},
            "num_rows": len(self.rows),
            "num_clean": sum(not row.findings for row in self.rows),
            "num_errors": self.counts["error"],
            "num_warnings": self.counts["warning"],
            "findings": [
                {"row_number": row.row_number, "scenario_id": row.scenario_id, **asdict(finding)}
                for row in self.rows
                for finding in row.findings
            ],
        }


def lint_manifest(uri: str, linter: PromptLinter, *, refiner: PromptRefiner | None = None) -> LintReport:
    """Look at each prompt of a manifest, as it stands there or as a refiner without a model would leave it.

    Raises:
        BadManifest: the file is missing, corrupt, empty, or not a table of scenarios.
        StorageUnavailable: a remote store did not answer.
    """
    parsed = parse_manifest(uri)
    ids = assign_ids([None if isinstance(row, InvalidRow) else row for row in parsed.rows])
    rows = []
    for number, (row, scenario_id) in enumerate(zip(parsed.rows, ids, strict=True)):
        if isinstance(row, InvalidRow):
            findings: tuple[Finding, ...] = (_invalid(row),)
        else:
            labels = row.labels or {}
            prompt = refiner.refine(row.prompt, labels).text if refiner else row.prompt
            findings = linter.lint(prompt, labels)
        rows.append(LintedRow(row_number=number, scenario_id=scenario_id, findings=findings))
    return LintReport(uri=parsed.uri, sha256=parsed.sha256, rows=tuple(rows))


def _invalid(row: InvalidRow) -> Finding:
    return Finding(
        rule=ROW_INVALID,
        severity="error",
        excerpt=row.got,
        message=f"the row cannot be read: {row.message}",
        fix="See crossroads manifest validate.",
    )
