"""A scenario matrix: axes of cameras, weather, times of day, incidents, actors and seeds, and rules on what may meet.

    axes:        what there is           camera x weather x time_of_day x incident x actors x seed
    exclude:     what may not meet       a list of cells, each a choice of values on some axes
    include:     if given, what may      the same form
    set:         what holds where        aftermath, traffic, settings of the generation

The file says nothing of the number of scenarios; `matrix_expansion` counts and writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cosmos_core.errors import BadConfig
from cosmos_core.hashing import sha256_json
from tasks import prompt_labels as labels
from tasks import scenario_rules as rules
from tasks.scenario import ScenarioRow

__all__ = ["AXES", "CameraView", "Cell", "Override", "ScenarioMatrix", "load_matrix"]

AXES = ("camera", "weather", "time_of_day", "incident", "actors", "seed")
Axis = Literal["camera", "weather", "time_of_day", "incident", "actors", "seed"]
Cell = Mapping[str, str]
"""One value of each axis, by name; seeds as text."""

_NAME = r"^[a-z0-9]+([_-][a-z0-9]+)*$"
Name = Annotated[str, Field(pattern=_NAME, max_length=32)]
_FIXED = frozenset({"scenario_id", "input", "prompt", "labels", "seed", "output_name"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CameraView(_Part):
    """One camera: a frame to start from and what it shows."""

    input: Annotated[str, BeforeValidator(rules.input_name)]
    camera: labels.Camera = "cctv"
    road_layout: labels.RoadLayout


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _as_text(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


Choice = Annotated[tuple[str | int, ...], BeforeValidator(_as_list), AfterValidator(_as_text)]
Rule = Annotated[dict[Axis, Choice], Field(min_length=1)]
"""Axis by axis the values that it speaks of; it holds for a cell whose values are all among them."""


class Override(_Part):
    """What holds for some cells; the last one that speaks of a field counts."""

    when: dict[Axis, Choice] = {}
    """Empty means everywhere."""
    aftermath: labels.Aftermath | None = None
    traffic: labels.Traffic | None = None
    settings: dict[str, Any] = {}
    """Manifest columns, such as `num_steps` or `adapters`."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        allowed = set(ScenarioRow.model_fields) - _FIXED
        if unknown := sorted(set(self.settings) - allowed):
            raise ValueError(f"settings among {', '.join(sorted(allowed))}, not {unknown[0]}")
        ScenarioRow.model_validate({"input": "x", "prompt": "x", **self.settings})
        return self


class _Axes(_Part):
    camera: dict[Name, CameraView] = Field(min_length=1)
    weather: tuple[labels.Weather, ...] = Field(min_length=1)
    time_of_day: tuple[labels.TimeOfDay, ...] = Field(min_length=1)
    incident: tuple[labels.Incident, ...] = Field(min_length=1)
    actors: dict[Name, tuple[labels.Actor, ...]] = Field(min_length=1)
    seed: tuple[Annotated[int, BeforeValidator(rules.whole_number(0, rules.MAX_SEED))], ...] = Field(min_length=1)

    def values(self, axis: str) -> tuple[str, ...]:
        return tuple(str(value) for value in getattr(self, axis))


class ScenarioMatrix(_Part):
    """The content of a matrix file."""

    id: Name
    """Begins the id of each scenario."""
    version: int = Field(ge=1)
    axes: _Axes
    include: tuple[Rule, ...] = ()
    exclude: tuple[Rule, ...] = ()
    set: tuple[Override, ...] = ()
    reduce: Literal["none", "pairwise"] = "none"
    """`pairwise` keeps as few cells as are needed for every pair of values that may meet; each with every seed."""

    @model_validator(mode="after")
    def _values_exist(self) -> Self:
        for axis in AXES:
            values = self.axes.values(axis)
            if twice := [value for value, count in Counter(values).items() if count > 1]:
                raise ValueError(f"each value of {axis} once, not {twice[0]} twice")
        overrides = [(f"set.{number}.when", item.when) for number, item in enumerate(self.set)]
        rules_ = [
            (f"{kind}.{n}", rule) for kind in ("include", "exclude") for n, rule in enumerate(getattr(self, kind))
        ]
        for where, rule in [*rules_, *overrides]:
            for axis, choice in rule.items():
                if unknown := sorted(set(choice) - set(self.axes.values(axis))):
                    raise ValueError(f"{where}.{axis} among {', '.join(self.axes.values(axis))}, not {unknown[0]}")
        return self

    @property
    def sha256(self) -> str:
        """Hash of all that the file says."""
        return sha256_json(self.model_dump(mode="json"))


def holds(rule: Mapping[Any, tuple[Any, ...]], cell: Cell) -> bool:
    """Whether a rule speaks of a cell."""
    return all(cell[axis] in choice for axis, choice in rule.items())


def load_matrix(path: Path) -> ScenarioMatrix:
    """Read a matrix file.

    Raises:
        BadConfig: the file is missing, is not YAML, or has a wrong or unknown field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadConfig(
            "the matrix cannot be read", got=f"{path} ({' '.join(str(error).split())[:200]})", expected="a YAML file"
        ) from None
    try:
        return ScenarioMatrix.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        reason = first.get("ctx", {}).get("error") or first.get("ctx", {}).get("expected") or first["msg"]
        shown = repr(first["input"])[:100] if field != "the file" else None
        raise BadConfig(
            f"{path}: {field}", got=shown, expected=reason, fix="See examples/matrix/its-matrix.yaml."
        ) from None
