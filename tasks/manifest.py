"""A manifest read and checked: every row of the file comes out once, as a `Scenario` or as an `InvalidRow`.

Checking needs no model and no GPU. Columns are in `manifest_schema`, file formats in `manifest_formats`, the limits of
single fields in `scenario_rules`; this module puts rows, defaults and inputs together. What is inside an input file is
checked later, when it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cosmos_core.errors import BadScenario
from cosmos_core.hashing import sha256_bytes
from tasks.manifest_formats import ManifestFormat, RawRow, detect_format, parse_rows
from tasks.manifest_inputs import check_input_root, resolve_input
from tasks.manifest_rows import InvalidRow, Problem, invalid_row, parse_row, shown
from tasks.manifest_schema import MANIFEST_SCHEMA, MANIFEST_VERSION, schema_document
from tasks.manifest_source import read_source
from tasks.manifest_writing import encode_manifest, write_manifest
from tasks.scenario import GENERATION_FIELDS, Scenario, ScenarioDefaults, ScenarioRow, wrong_variant_field
from tasks.scenario_ids import assign_ids

__all__ = [
    "MANIFEST_SCHEMA",
    "MANIFEST_VERSION",
    "InvalidRow",
    "Manifest",
    "ParsedManifest",
    "encode_manifest",
    "parse_manifest",
    "read_manifest",
    "resolve_input",
    "schema_document",
    "write_manifest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedManifest:
    """A manifest's rows, each checked by itself: no defaults, no ids, no look at inputs."""

    uri: str
    sha256: str
    """Of the file's bytes."""
    format: ManifestFormat
    raw_rows: tuple[RawRow, ...]
    rows: tuple[ScenarioRow | InvalidRow, ...]
    """In file order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest ready to run: `rows` and `invalid` together hold every row of the file once."""

    uri: str
    sha256: str
    """Of the file's bytes."""
    format: ManifestFormat
    rows: tuple[Scenario, ...]
    invalid: tuple[InvalidRow, ...]
    num_rows: int


def parse_manifest(uri: str) -> ParsedManifest:
    """Reads a manifest and checks each row by itself.

    Raises:
        BadManifest: the file is missing, corrupt, empty, or not a table of scenarios.
        StorageUnavailable: a remote store did not answer.
    """
    content = read_source(uri)
    manifest_format = detect_format(uri, content)
    raw_rows = parse_rows(content, manifest_format, uri=uri)
    rows: list[ScenarioRow | InvalidRow] = []
    for number, raw in enumerate(raw_rows):
        parsed = parse_row(raw)
        rows.append(parsed if isinstance(parsed, ScenarioRow) else invalid_row(number, raw, parsed))
    return ParsedManifest(
        uri=uri, sha256=sha256_bytes(content), format=manifest_format, raw_rows=tuple(raw_rows), rows=tuple(rows)
    )


def read_manifest(uri: str, defaults: ScenarioDefaults, *, input_root: str | None = None) -> Manifest:
    """Reads a manifest, fills in the run's defaults, gives every row its id and resolves its input.

    Args:
        uri: a local path, or a file://, s3:// or http(s):// address.
        defaults: values of what a row does not give.
        input_root: folder or address that relative inputs begin at, instead of the manifest's folder.

    Raises:
        BadManifest: the file is missing, corrupt, empty, or not a table of scenarios.
        BadConfig: the input root is not a folder.
        StorageUnavailable: a remote store did not answer.
    """
    check_input_root(input_root)
    parsed = parse_manifest(uri)
    ids = assign_ids([row if isinstance(row, ScenarioRow) else None for row in parsed.rows])
    valid: list[Scenario] = []
    invalid: list[InvalidRow] = []
    first_with: dict[str, int] = {}
    for number, (row, scenario_id) in enumerate(zip(parsed.rows, ids, strict=True)):
        if isinstance(row, InvalidRow) or scenario_id is None:
            assert isinstance(row, InvalidRow)
            invalid.append(row)
            continue
        # An invalid row keeps its id as well, so that repairing it later takes no other row's name away.
        first = first_with.setdefault(scenario_id.lower(), number)
        checked = _complete(row, number, scenario_id, defaults, parsed.uri, input_root)
        if first != number:
            twin = _repeated(row, scenario_id, first)
            checked = [twin, *checked] if isinstance(checked, list) else [twin]
        if isinstance(checked, list):
            invalid.append(invalid_row(number, parsed.raw_rows[number], checked))
        else:
            valid.append(checked)
    return Manifest(
        uri=parsed.uri,
        sha256=parsed.sha256,
        format=parsed.format,
        rows=tuple(valid),
        invalid=tuple(invalid),
        num_rows=len(parsed.rows),
    )


def _complete(
    row: ScenarioRow, number: int, scenario_id: str, defaults: ScenarioDefaults, uri: str, input_root: str | None
) -> Scenario | list[Problem]:
    given = {name: value for name in ScenarioRow.model_fields if (value := getattr(row, name)) is not None}
    settings = {name: given.get(name, getattr(defaults, name)) for name in GENERATION_FIELDS}
    problems = _variant_problems(settings, given)
    try:
        input_uri = resolve_input(row.input, manifest_uri=uri, input_root=input_root)
    except BadScenario as error:
        problems.append(_input_problem(error))
    if problems:
        return problems
    return Scenario.model_validate(
        {**given, **settings, "row_number": number, "scenario_id": scenario_id, "input_uri": input_uri}
    )


def _variant_problems(settings: Mapping[str, Any], given: Mapping[str, Any]) -> list[Problem]:
    wrong = wrong_variant_field(
        model=settings["model"],
        resolution=settings["resolution"],
        fps=settings["fps"],
        aspect_ratio=settings["aspect_ratio"],
    )
    if wrong is None:
        return []
    field, error = wrong
    fix = "" if field in given else f"{field} comes from the run's defaults: give it in the row"
    return [
        Problem(field=field, what=error.what, got=shown(settings[field]), expected=error.expected or "another", fix=fix)
    ]


def _input_problem(error: BadScenario) -> Problem:
    return Problem(
        field="input", what=error.what, got=shown(error.got), expected=error.expected or "", fix=error.fix or ""
    )


def _repeated(row: ScenarioRow, scenario_id: str, first: int) -> Problem:
    if row.scenario_id is not None:
        what, fix = f"already the id of row {first}", ""
    elif row.output_name is not None:
        what, fix = f"row {first} has the same id or output name", "Give this row another output_name or a scenario_id"
    else:
        what, fix = f"row {first} is the same", "Remove this row, or give it a scenario_id or another seed"
    return Problem(field="scenario_id", what=what, got=shown(scenario_id), expected="an id of its own", fix=fix)
