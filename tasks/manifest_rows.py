"""From one raw row to a `ScenarioRow`: aliases, blanks, unknown fields, and the problems found on the way."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from tasks.manifest_formats import BrokenRow, RawRow
from tasks.manifest_schema import ALIASES, LABEL_PREFIX, OFF, unknown_name
from tasks.manifest_source import without_credentials
from tasks.scenario import ScenarioRow
from tasks.scenario_rules import is_blank

__all__ = ["InvalidRow", "Problem", "invalid_row", "parse_row", "shown"]

_OFF_VALUES: dict[str, object] = {"negative_prompt": "", "adapters": []}
_MAX_SHOWN = 120
_MAX_PROBLEMS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with a row."""

    field: str
    got: str
    expected: str
    fix: str = ""
    what: str = ""

    def __str__(self) -> str:
        text = f"{self.field}: {self.what + ', ' if self.what else ''}got {self.got}, expected {self.expected}"
        return f"{text}. {self.fix}" if self.fix else text


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidRow:
    """A row that is set aside."""

    row_number: int
    """Position in the manifest, from 0."""
    scenario_id: str | None
    """Id that the row itself gives, as it stands there: unchecked, not fit for a file name."""
    field: str
    """Where the first problem lies."""
    got: str
    expected: str
    message: str
    """All problems in one line."""
    problems: tuple[Problem, ...]
    raw: dict[str, Any]
    """The row's content in JSON types; aliased fields have their own names, a broken row is all in `row`."""


def parse_row(raw: RawRow) -> ScenarioRow | list[Problem]:
    """One row cleaned, or everything that is wrong with it."""
    if isinstance(raw, BrokenRow):
        return [Problem(field="row", got=raw.got[:_MAX_SHOWN], expected=raw.expected)]
    fields, problems = _named_fields(raw)
    try:
        row = ScenarioRow.model_validate(fields)
    except ValidationError as error:
        return problems + [_field_problem(details, fields) for details in error.errors(include_url=False)]
    return problems or row


def invalid_row(row_number: int, raw: RawRow, problems: list[Problem]) -> InvalidRow:
    """The record of a row that is set aside for `problems` (at least one)."""
    first, num_more = problems[0], len(problems) - _MAX_PROBLEMS
    message = "; ".join(map(str, problems[:_MAX_PROBLEMS])) + (f"; and {num_more} more" if num_more > 0 else "")
    content = {"row": raw.raw} if isinstance(raw, BrokenRow) else raw
    given = content.get("scenario_id")
    return InvalidRow(
        row_number=row_number,
        scenario_id=None if is_blank(given) else _clean(str(given))[:_MAX_SHOWN],
        field=first.field,
        got=first.got,
        expected=first.expected,
        message=message,
        problems=tuple(problems),
        raw={
            _clean(ALIASES.get(key, key)): _plain(value)
            for key, value in content.items()
            if value == "" or not is_blank(value)
        },
    )


def shown(value: object) -> str:
    """A value for a message: on one line, escaped, shortened, without credentials."""
    if is_blank(value):
        return "nothing"
    head = value[: 2 * _MAX_SHOWN] if isinstance(value, str) else _plain(value)
    text = without_credentials(repr(head))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _named_fields(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The given fields under their own names; labels of columns of their own gathered into one mapping."""
    fields: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    problems: list[Problem] = []
    for key, value in raw.items():
        if (expected := unknown_name(key)) is not None:
            problems.append(Problem(field=shown(key), got="an unknown field", expected=expected))
        elif key.startswith(LABEL_PREFIX):
            if not is_blank(value):
                labels[key.removeprefix(LABEL_PREFIX)] = value
        elif _is_given(key, value):
            name = ALIASES.get(key, key)
            if name in fields:
                problems.append(Problem(field=name, got="two values", expected=f"{name} or its other name, not both"))
            fields[name] = _OFF_VALUES[name] if value == OFF and name in _OFF_VALUES else value
    if labels:
        problems += _join_labels(fields, labels)
    return fields, problems


def _is_given(key: str, value: object) -> bool:
    # An empty negative prompt switches guidance off; the CSV reader turns empty cells into None before this.
    return not is_blank(value) or (key == "negative_prompt" and value == "")


def _join_labels(fields: dict[str, Any], labels: dict[str, Any]) -> list[Problem]:
    if "labels" in fields:
        expected = f"either labels or columns {LABEL_PREFIX}<name>, not both"
        return [Problem(field="labels", got="both", expected=expected)]
    fields["labels"] = labels
    return []


def _field_problem(details: Mapping[str, Any], fields: Mapping[str, Any]) -> Problem:
    field, *inner = details["loc"]
    reason = details.get("ctx", {}).get("error") or details["msg"]
    if details["type"] == "missing" and not inner:
        reason = "a path or URI" if field == "input" else "text"
    part = next((str(name) for name in reversed(inner) if isinstance(name, str)), "")
    return Problem(
        field=str(field), got=shown(fields.get(field)), expected=f"{reason} as {part}" if part else str(reason)
    )


def _plain(value: object, depth: int = 4) -> object:
    """A value in JSON types that any file format and terminal can hold."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _clean(value)
    if depth == 0:
        return "..."
    if isinstance(value, dict):
        return {_clean(str(key)): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, Decimal | datetime.date | datetime.time):
        return str(value)
    return _clean(repr(value))


def _clean(text: str) -> str:
    """Text that is valid UTF-8, without credentials."""
    return without_credentials(text.encode("utf-8", errors="replace").decode())
