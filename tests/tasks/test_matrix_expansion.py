"""A matrix becomes rows once each, the same every time, and the account of its cells adds up."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml

from cosmos_core.errors import BadConfig
from tasks.manifest import read_manifest, write_manifest
from tasks.matrix_expansion import expand_matrix
from tasks.scenario import ScenarioDefaults
from tasks.scenario_matrix import AXES, ScenarioMatrix, load_matrix

SHIPPED = sorted((Path(__file__).parents[2] / "examples" / "matrix").glob("*matrix*.yaml"))


def matrix(**changes):
    content = {
        "id": "m",
        "version": 1,
        "axes": {
            "camera": {
                "cross": {"input": "a.jpg", "road_layout": "four_way_intersection"},
                "road": {"input": "b.jpg", "road_layout": "highway"},
            },
            "weather": ["clear", "rain", "snow"],
            "time_of_day": ["day", "night"],
            "incident": ["rear_end", "t_bone", "none"],
            "actors": {
                "sedan-suv": [{"type": "sedan", "colour": "red"}, {"type": "suv", "colour": "white"}],
                "van-bus": [{"type": "van", "colour": "blue"}, {"type": "bus"}],
            },
            "seed": [1, 2],
        },
    }
    axes = content["axes"] | changes.pop("axes", {})
    return ScenarioMatrix.model_validate(content | {"axes": axes} | changes)


def ids(expansion):
    return [row.scenario_id for row in expansion.rows]


def pairs(expansion):
    found = set()
    for row in expansion.rows:
        _, camera, incident, actors, weather, time, _ = row.scenario_id.split(".")
        found |= set(
            itertools.combinations((("c", camera), ("i", incident), ("a", actors), ("w", weather), ("t", time)), 2)
        )
    return found


def test_every_possible_cell_is_a_row():
    expansion = expand_matrix(matrix())
    coverage = expansion.coverage
    # 2 x 3 x 2 x 3 x 2 x 2 cells, less the T-bones on the highway: 3 x 2 x 2 x 2.
    assert (coverage.cells, coverage.impossible, coverage.scenarios) == (144, 24, 120)
    assert coverage.impossible_because == {"t_bone at four_way_intersection | t_junction, not at highway": 24}
    assert len(set(ids(expansion))) == len(expansion.rows) == 120
    assert coverage.pairs_taken == coverage.pairs_possible


def test_a_row_says_what_its_id_says():
    rows = {row.scenario_id: row for row in expand_matrix(matrix()).rows}
    row = rows["m.road.rear_end.van-bus.snow.night.s2"]
    assert (row.input, row.seed) == ("b.jpg", 2)
    assert row.prompt == (
        "A static traffic CCTV camera captures a multi-lane highway at night in snow. A bus brakes suddenly. A blue "
        "van following too closely runs into its rear. Both vehicles come to rest on the road."
    )
    assert row.labels["matrix"] == "m v1"
    assert (row.labels["view"], row.labels["weather"]) == ("road", "snow")


def test_the_same_file_gives_the_same_rows():
    first = expand_matrix(matrix())
    assert expand_matrix(matrix()) == first
    assert matrix().sha256 == matrix().sha256 != matrix(version=2).sha256


def test_ids_do_not_depend_on_order_or_on_other_values():
    more = matrix(axes={"weather": ["snow", "fog", "rain", "clear"], "seed": [2, 9, 1]})
    before, after = expand_matrix(matrix()), expand_matrix(more)
    assert set(ids(before)) < set(ids(after))
    rows = {row.scenario_id: row for row in after.rows}
    assert all(rows[row.scenario_id] == row for row in before.rows)


def test_exclude_and_include_rule_cells_out():
    out = {"weather": ["rain", "snow"], "time_of_day": "night"}
    expansion = expand_matrix(matrix(exclude=[out, {"seed": 2}]))
    assert not any(".rain.night." in name or ".snow.night." in name for name in ids(expansion))
    assert all(name.endswith(".s1") for name in ids(expansion))
    assert set(expansion.coverage.excluded_by) == {
        "exclude.0 (weather rain|snow, time_of_day night)",
        "exclude.1 (seed 2)",
    }
    only = expand_matrix(matrix(include=[{"incident": "none", "camera": "road"}, {"incident": "t_bone"}]))
    assert {tuple(name.split(".")[1:3]) for name in ids(only)} == {("road", "none"), ("cross", "t_bone")}
    assert set(only.coverage.excluded_by) == {"include"}


def test_the_account_adds_up():
    twice = {
        "a": [{"type": "sedan", "colour": "red"}, {"type": "suv"}],
        "b": [{"type": "sedan", "colour": "red"}, {"type": "suv"}],
    }
    coverage = expand_matrix(matrix(axes={"actors": twice}, exclude=[{"seed": 1}]), reduce="pairwise", limit=5).coverage
    gone = (coverage.excluded, coverage.impossible, coverage.duplicates, coverage.reduced)
    assert all(number > 0 for number in gone)
    assert coverage.cells == sum(gone) + coverage.scenarios
    assert coverage.scenarios == 5
    for axis in AXES:
        assert sum(item.taken for item in coverage.axes if item.axis == axis) == 5
    assert {item.value: item.possible for item in coverage.axes if item.axis == "actors"}["b"] == 0


def test_overrides_hold_where_they_say_and_the_last_one_counts():
    overrides = [
        {"settings": {"num_steps": 10, "guidance": 5}},
        {"when": {"incident": "rear_end"}, "aftermath": "queue", "traffic": "heavy", "settings": {"num_steps": 20}},
        {"when": {"incident": "rear_end", "weather": ["rain"]}, "aftermath": "debris"},
    ]
    for row in expand_matrix(matrix(set=overrides)).rows:
        rear_end, rain = ".rear_end." in row.scenario_id, ".rain." in row.scenario_id
        assert (row.num_steps, row.guidance) == (20 if rear_end else 10, 5)
        assert ("heavy traffic" in row.prompt) == rear_end
        assert ("queues up" in row.prompt) == (rear_end and not rain)
        assert ("debris" in row.prompt) == (rear_end and rain)


def test_pairwise_keeps_every_pair_with_few_cells():
    everything, few = expand_matrix(matrix()), expand_matrix(matrix(reduce="pairwise"))
    assert pairs(few) == pairs(everything)
    assert few.coverage.pairs_taken == everything.coverage.pairs_possible == few.coverage.pairs_possible
    assert set(ids(few)) < set(ids(everything))
    # 9 pairs of weather and incident are the fewest that could do; with two seeds each.
    assert 2 * 9 <= len(few.rows) <= 2 * 13
    assert ids(expand_matrix(matrix(), reduce="pairwise")) == ids(few)
    assert ids(expand_matrix(matrix(reduce="pairwise"), reduce="none")) == ids(everything)


def test_pairwise_takes_every_seed_of_a_cell():
    names = ids(expand_matrix(matrix(reduce="pairwise")))
    assert {name.removesuffix("s1") for name in names if name.endswith("s1")} == {
        name.removesuffix("s2") for name in names if name.endswith("s2")
    }


def test_a_limit_is_spread_over_the_matrix_and_grows_by_adding():
    ten, twenty = (ids(expand_matrix(matrix(), limit=number)) for number in (10, 20))
    assert (len(ten), len(twenty)) == (10, 20)
    assert set(ten) < set(twenty)
    assert len({name.split(".")[4] for name in twenty}) == 3
    assert ids(expand_matrix(matrix(), limit=1000)) == ids(expand_matrix(matrix()))


def test_long_names_make_ids_that_are_legal_and_different():
    long = {f"{letter * 32}": [{"type": "sedan"}, {"type": "suv", "colour": "red"}] for letter in ("a", "b")}
    views = {f"{letter * 32}": {"input": f"{letter}.jpg", "road_layout": "crosswalk"} for letter in ("c", "d")}
    name = "e" * 32
    axes = {"actors": long, "camera": views, "incident": ["rear_end"], "seed": [4294967294, 4294967295]}
    expansion = expand_matrix(matrix(id=name, axes=axes))
    assert all(len(item) <= 128 for item in ids(expansion))
    assert len(set(ids(expansion))) == len(expansion.rows)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_matrix_makes_a_valid_manifest(path, tmp_path, repository):
    expansion = expand_matrix(load_matrix(path))
    write_manifest(expansion.rows, tmp_path / "m.parquet")
    manifest = read_manifest(
        str(tmp_path / "m.parquet"), ScenarioDefaults(), input_root=str(repository / "examples/demo/frames")
    )
    assert manifest.invalid == ()
    assert [row.scenario_id for row in manifest.rows] == ids(expansion)
    assert all(item.taken for item in expansion.coverage.axes)


def test_there_is_a_shipped_matrix():
    assert SHIPPED


def write(tmp_path, **changes):
    content = yaml.safe_load(SHIPPED[0].read_text())
    content |= changes
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "m.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "A b"}, "id"),
        ({"colour": "x"}, "colour"),
        ({"exclude": [{}]}, r"exclude\.0"),
        ({"exclude": [{"weather": "snow"}]}, r"exclude\.0\.weather among clear, overcast, rain, not snow"),
        ({"include": [{"actor": "x"}]}, r"include\.0\.actor"),
        ({"set": [{"when": {"seed": 9}}]}, r"set\.0\.when\.seed among 7, 8, not 9"),
        ({"set": [{"settings": {"prompt": "x"}}]}, r"settings among .*, not prompt"),
        ({"set": [{"settings": {"num_steps": 0}}]}, "num_steps"),
        ({"reduce": "triples"}, "reduce"),
        ({"axes": {}}, "axes"),
    ],
)
def test_a_wrong_matrix_is_named(tmp_path, changes, message):
    with pytest.raises(BadConfig, match=message):
        load_matrix(write(tmp_path, **changes))


def test_a_file_that_is_no_matrix(tmp_path):
    with pytest.raises(BadConfig, match="cannot be read"):
        load_matrix(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(BadConfig, match="cannot be read"):
        load_matrix(tmp_path / "x.yaml")
    (tmp_path / "x.yaml").write_text("- 1")
    with pytest.raises(BadConfig, match="the file"):
        load_matrix(tmp_path / "x.yaml")


def test_a_value_twice_is_refused():
    with pytest.raises(ValueError, match="each value of seed once, not 1 twice"):
        matrix(axes={"seed": [1, 1]})


def test_a_matrix_without_scenarios_says_why():
    with pytest.raises(BadConfig, match=r"has no scenario.*t_bone at four_way_intersection"):
        expand_matrix(matrix(axes={"incident": ["t_bone"]}, exclude=[{"camera": "cross"}]))


def test_a_matrix_that_is_too_large_is_refused_before_it_is_built():
    with pytest.raises(BadConfig, match="too large: got 1440000 cells"):
        expand_matrix(matrix(axes={"seed": list(range(20_000))}))
