"""From a scenario matrix to the rows of a manifest, and to an account of what is covered.

Deterministic: the same file gives the same rows in the same order. A scenario's id is made of the names of its values,
so adding, removing or reordering values changes the id of no other scenario.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cosmos_core.errors import BadConfig, BadScenario
from cosmos_core.hashing import sha256_json
from tasks.prompt_builder import build_prompt, manifest_labels
from tasks.prompt_labels import INCIDENT_RULES, PromptLabels, parse_labels
from tasks.scenario import ScenarioRow
from tasks.scenario_ids import slug
from tasks.scenario_matrix import AXES, Cell, ScenarioMatrix, holds

__all__ = ["AxisCoverage", "Coverage", "Expansion", "expand_matrix"]

MAX_CELLS = 1_000_000
_MAX_ID = 128
_ID_ORDER = ("camera", "incident", "actors", "weather", "time_of_day")


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisCoverage:
    """How often one value of one axis was taken."""

    axis: str
    value: str
    possible: int
    """Cells that the rules allow."""
    taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What became of the cells of a matrix; the five numbers after `cells` add up to it."""

    cells: int
    excluded: int
    """Ruled out by `exclude`, or in no rule of `include`."""
    impossible: int
    """Labels that do not fit together, such as a T-bone on a highway."""
    duplicates: int
    """The same scenario under another name."""
    reduced: int
    """Left out by the pairwise reduction or by the limit."""
    scenarios: int
    pairs_possible: int
    """Pairs of values of two axes, seeds apart, that some allowed cell has."""
    pairs_taken: int
    axes: tuple[AxisCoverage, ...]
    excluded_by: Mapping[str, int]
    """Cells by the first rule that ruled them out."""
    impossible_because: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expansion:
    """A matrix written out."""

    rows: tuple[ScenarioRow, ...]
    coverage: Coverage


@dataclass(frozen=True, slots=True)
class _Candidate:
    cell: Cell
    row: ScenarioRow


def expand_matrix(matrix: ScenarioMatrix, *, limit: int | None = None, reduce: str | None = None) -> Expansion:
    """Every scenario of a matrix, each once.

    Args:
        limit: keep at most so many, spread over the matrix by the hash of their ids.
        reduce: `none` or `pairwise` instead of what the file says.

    Raises:
        BadConfig: the matrix is too large, or no scenario is left.
    """
    num_cells = 1
    for axis in AXES:
        num_cells *= len(matrix.axes.values(axis))
    if num_cells > MAX_CELLS:
        raise BadConfig("the matrix is too large", got=f"{num_cells} cells", expected=f"at most {MAX_CELLS}")
    excluded: Counter[str] = Counter()
    impossible: Counter[str] = Counter()
    allowed: list[_Candidate] = []
    for cell in _cells(matrix):
        if rule := _ruled_out(matrix, cell):
            excluded[rule] += 1
            continue
        try:
            allowed.append(_Candidate(cell, _row(matrix, cell)))
        except BadScenario as error:
            impossible[str(error).partition("expected ")[2] or str(error)] += 1
    unique = _without_duplicates(allowed)
    taken = _pairwise(unique) if (reduce or matrix.reduce) == "pairwise" else unique
    taken = _limited(taken, limit)
    if not taken:
        raise BadConfig(
            f"the matrix {matrix.id} has no scenario",
            got=f"{num_cells} cells: {excluded.total()} excluded, {impossible.total()} impossible",
            expected="at least one",
            fix="; ".join(reason for reason, _ in impossible.most_common(3)) or "Loosen exclude and include.",
        )
    coverage = Coverage(
        cells=num_cells,
        excluded=excluded.total(),
        impossible=impossible.total(),
        duplicates=len(allowed) - len(unique),
        reduced=len(unique) - len(taken),
        scenarios=len(taken),
        pairs_possible=len(_all_pairs(unique)),
        pairs_taken=len(_all_pairs(taken)),
        axes=tuple(_axis_coverage(matrix, unique, taken)),
        excluded_by=dict(sorted(excluded.items())),
        impossible_because=dict(sorted(impossible.items())),
    )
    return Expansion(rows=tuple(candidate.row for candidate in taken), coverage=coverage)


def _cells(matrix: ScenarioMatrix) -> Iterator[Cell]:
    for values in itertools.product(*(matrix.axes.values(axis) for axis in AXES)):
        yield dict(zip(AXES, values, strict=True))


def _ruled_out(matrix: ScenarioMatrix, cell: Cell) -> str | None:
    for number, rule in enumerate(matrix.exclude):
        if holds(rule, cell):
            spoken = ", ".join(f"{axis} {'|'.join(map(str, choice))}" for axis, choice in rule.items())
            return f"exclude.{number} ({spoken})"
    if matrix.include and not any(holds(rule, cell) for rule in matrix.include):
        return "include"
    return None


def _row(matrix: ScenarioMatrix, cell: Cell) -> ScenarioRow:
    """The manifest row of a cell.

    Raises:
        BadScenario: its labels do not fit together.
    """
    view = matrix.axes.camera[cell["camera"]]
    known: dict[str, Any] = {"aftermath": None, "traffic": None}
    settings: dict[str, Any] = {}
    for override in matrix.set:
        if holds(override.when, cell):
            known |= {name: value for name in known if (value := getattr(override, name)) is not None}
            settings |= override.settings
    labels = _labels(matrix, cell, known)
    return ScenarioRow.model_validate(
        settings
        | {
            "scenario_id": _scenario_id(matrix, cell),
            "input": view.input,
            "prompt": build_prompt(labels),
            "seed": int(cell["seed"]),
            "labels": manifest_labels(labels) | {"matrix": f"{matrix.id} v{matrix.version}", "view": cell["camera"]},
        }
    )


def _labels(matrix: ScenarioMatrix, cell: Cell, known: Mapping[str, Any]) -> PromptLabels:
    view, incident = matrix.axes.camera[cell["camera"]], cell["incident"]
    usual = next(rule.aftermaths[0] for name, rule in INCIDENT_RULES.items() if name == incident)
    return parse_labels(
        {
            "camera": view.camera,
            "road_layout": view.road_layout,
            "weather": cell["weather"],
            "time_of_day": cell["time_of_day"],
            "incident": incident,
            "actors": matrix.axes.actors[cell["actors"]],
            "aftermath": known["aftermath"] or usual,
            "traffic": known["traffic"],
        }
    )


def _scenario_id(matrix: ScenarioMatrix, cell: Cell) -> str:
    # No name holds a dot, so that different cells have different ids.
    name = ".".join([matrix.id, *(cell[axis] for axis in _ID_ORDER), f"s{cell['seed']}"])
    if len(name) <= _MAX_ID:
        return name
    return f"{slug(name, max_chars=_MAX_ID - 17)}.{sha256_json([matrix.id, dict(cell)])[:16]}"


def _without_duplicates(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """The first of each set of rows that generate the same."""
    seen: set[str] = set()
    unique = []
    for candidate in candidates:
        content = candidate.row.given()
        digest = sha256_json({name: value for name, value in content.items() if name not in ("scenario_id", "labels")})
        if digest not in seen:
            seen.add(digest)
            unique.append(candidate)
    return unique


def _pairs(cell: Cell) -> frozenset[tuple[str, str, str, str]]:
    """Pairs of values that a cell has, seeds apart."""
    named = [(axis, cell[axis]) for axis in AXES if axis != "seed"]
    return frozenset((*first, *second) for first, second in itertools.combinations(named, 2))


def _all_pairs(candidates: Sequence[_Candidate]) -> set[tuple[str, str, str, str]]:
    return set().union(*(_pairs(candidate.cell) for candidate in candidates))


def _pairwise(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Few cells that have every pair: greedily the one with most that are missing, the earlier one of equals.

    What a cell adds only shrinks as others are taken, so an outdated number is an upper bound and a heap will do.
    """
    by_cell: dict[tuple[str, ...], list[int]] = {}
    for index, candidate in enumerate(candidates):
        by_cell.setdefault(tuple(candidate.cell[axis] for axis in AXES if axis != "seed"), []).append(index)
    groups = list(by_cell.values())
    pairs = [_pairs(candidates[group[0]].cell) for group in groups]
    missing = set().union(*pairs)
    heap = [(-len(has), number) for number, has in enumerate(pairs)]
    heapq.heapify(heap)
    chosen: list[int] = []
    while missing:
        bound, number = heapq.heappop(heap)
        adds = len(pairs[number] & missing)
        if heap and adds and (-adds, number) > heap[0]:
            heapq.heappush(heap, (-adds, number))
        elif adds:
            assert -adds >= bound, "what a cell adds never grows"
            missing -= pairs[number]
            chosen += groups[number]
    return [candidates[index] for index in sorted(chosen)]


def _limited(candidates: Sequence[_Candidate], limit: int | None) -> list[_Candidate]:
    if limit is None or limit >= len(candidates):
        return list(candidates)
    digests = [sha256_json(candidate.row.scenario_id) for candidate in candidates]
    kept = sorted(sorted(range(len(candidates)), key=digests.__getitem__)[:limit])
    return [candidates[index] for index in kept]


def _axis_coverage(
    matrix: ScenarioMatrix, possible: Sequence[_Candidate], taken: Sequence[_Candidate]
) -> Iterator[AxisCoverage]:
    for axis in AXES:
        before = Counter(candidate.cell[axis] for candidate in possible)
        after = Counter(candidate.cell[axis] for candidate in taken)
        for value in matrix.axes.values(axis):
            yield AxisCoverage(axis=axis, value=value, possible=before[value], taken=after[value])
