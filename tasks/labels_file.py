"""A file of structured labels: scenarios without a prompt, which is built from what they say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cosmos_core.errors import BadConfig, BadScenario
from tasks.prompt_builder import build_prompt, manifest_labels
from tasks.prompt_labels import PromptLabels, parse_labels
from tasks.scenario import ScenarioRow

__all__ = ["read_labels", "rows_of_labels"]

Entry = tuple[PromptLabels, dict[str, Any]]
"""Labels, and the manifest columns beside them."""


def read_labels(path: Path) -> list[Entry]:
    """Every scenario of a labels file (YAML or JSON).

    Raises:
        BadConfig: the file is no list of scenarios.
        BadScenario: names the first scenario whose labels are wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig("the labels cannot be read", got=f"{path} ({' '.join(str(error).split())[:200]})") from None
    scenarios = content.get("scenarios") if isinstance(content, dict) and set(content) == {"scenarios"} else content
    if not isinstance(scenarios, list) or not scenarios:
        raise BadConfig(
            f"{path} is no labels file",
            got=type(scenarios).__name__,
            expected="a list of scenarios, each with labels",
            fix="See examples/matrix/labels.yaml.",
        )
    return [_entry(number, item) for number, item in enumerate(scenarios)]


def rows_of_labels(entries: list[Entry]) -> list[ScenarioRow]:
    """The manifest rows of labels.

    Raises:
        BadScenario: names the first scenario that is no row: without an input, or with a wrong column.
    """
    rows = []
    for number, (labels, columns) in enumerate(entries):
        filled = columns | {"prompt": build_prompt(labels), "labels": manifest_labels(labels)}
        try:
            rows.append(ScenarioRow.model_validate(filled))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = first.get("ctx", {}).get("error") or first["msg"]
            shown = repr(first["input"])[:100] if first["type"] != "missing" else "nothing"
            raise BadScenario(f"scenario {number}: {first['loc'][0]}", got=shown, expected=reason) from None
    return rows


def _entry(number: int, item: object) -> Entry:
    if not isinstance(item, Mapping) or not isinstance(item.get("labels"), Mapping):
        raise BadScenario(f"scenario {number}", got=repr(item)[:100], expected="a mapping with labels")
    if "prompt" in item:
        raise BadScenario(f"scenario {number}: prompt", got=repr(item["prompt"])[:60], expected="none: it is built")
    try:
        labels = parse_labels(item["labels"])
    except BadScenario as error:
        raise BadScenario(
            f"scenario {number}: {error.what}", got=error.got, expected=error.expected, fix=error.fix
        ) from None
    return labels, {str(name): value for name, value in item.items() if name != "labels"}
