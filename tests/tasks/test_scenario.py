import pickle
from decimal import Decimal

import numpy as np
import pytest
from pydantic import ValidationError

from cosmos_core.hashing import sha256_bytes
from tasks.scenario import DEFAULT_NEGATIVE_PROMPT, AdapterUse, Scenario, ScenarioDefaults, ScenarioRow

BASE = {"row_number": 0, "scenario_id": "a", "input": "a.jpg", "input_uri": "/data/a.jpg", "prompt": "A crash."}


def scenario(**fields):
    return Scenario.model_validate(BASE | fields)


def refused(**fields):
    """The one field that is refused, and what was expected instead."""
    with pytest.raises(ValidationError) as caught:
        scenario(**fields)
    (error,) = caught.value.errors()
    return ".".join(map(str, error["loc"])), str(error["ctx"]["error"]) if "ctx" in error else error["msg"]


def test_defaults_are_those_of_the_smallest_model():
    defaults = ScenarioDefaults()
    assert (defaults.model, defaults.resolution, defaults.fps, defaults.aspect_ratio) == ("tiny", "112", 10, "16:9")
    assert (defaults.seed, defaults.guidance, defaults.num_steps, defaults.num_conditional_frames) == (0, 7.0, 35, 1)
    assert defaults.adapters == ()
    assert defaults.geometry.num_frames == 61


def test_default_negative_prompt_is_the_references():
    # Hash of the text in the reference's command line.
    digest = "6d7ca93077e7e4a8417947ab03266c97dd44c9ec0d7b97fa4272ed956895239f"
    assert sha256_bytes(DEFAULT_NEGATIVE_PROMPT.encode()) == digest
    assert ScenarioDefaults().negative_prompt == DEFAULT_NEGATIVE_PROMPT


@pytest.mark.parametrize("value", [5, 5.0, "5", "5.0", " 5 ", "+5", np.int64(5), np.float64(5.0), Decimal("5.0")])
def test_whole_numbers_come_in_many_types(value):
    assert scenario(seed=value).seed == 5
    assert type(scenario(seed=value).seed) is int


@pytest.mark.parametrize("field", ["seed", "num_steps", "num_conditional_frames", "fps"])
@pytest.mark.parametrize(
    "value", [True, False, 5.5, "5.5", "5_0", "٥", "five", float("inf"), float("nan"), 1e300, [5], {"a": 5}, None, b"5"]
)
def test_what_is_no_whole_number_is_refused(field, value):
    assert refused(**{field: value})[0] == field


@pytest.mark.parametrize(
    ("field", "accepted", "rejected"),
    [
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("num_steps", [1, 1000], [0, 1001]),
        ("num_conditional_frames", [1, 5], [0, 2, 4, 6]),
        ("guidance", [0, 7, 50, "7.5", 0.0], [-0.1, 50.1, float("inf"), float("nan"), True, "1_0", "x", None, 10**400]),
        (
            "prompt",
            ["x", "x" * 20_000, "交通事故 🚗", " x ", "two\nlines"],
            ["", " \n\t", "x" * 20_001, 5, "a\0b", "\ud800"],
        ),
        ("negative_prompt", ["", "x" * 20_000], ["x" * 20_001, 5, "a\0b", "\udfff"]),
        ("scenario_id", ["a", "A1._-", "0", "x" * 128], ["", "x" * 129, ".a", "-a", "..", "a/b", "a b", "é", "a\n", 5]),
        (
            "input",
            ["a.jpg", "ü/文.png", "s3://b/a b.mp4"],
            ["", "  ", "a\nb", "a\0", "\x1b[31m", "x" * 4097, 5, "\ud800"],
        ),
        (
            "output_name",
            ["a.mp4", "a/b/c.mp4", "ü 文.mp4", "a..b.mp4", "x" * 512],
            ["", ".", "..", "../a", "a/../b", "/a", "a\\b", "C:a", "c:/a", "a\0b", "a/", "x" * 513, 5, "a\nb"],
        ),
    ],
)
def test_limits(field, accepted, rejected):
    for value in accepted:
        scenario(**{field: value})
    for value in rejected:
        assert refused(**{field: value})[0] == field, value


def test_output_name_loses_needless_parts():
    assert scenario(output_name="./out//a.mp4").output_name == "out/a.mp4"


@pytest.mark.parametrize("value", [720, 720.0, "720", "720p", " 720 "])
def test_resolution_is_a_name_however_it_is_written(value):
    assert scenario(model="2B", resolution=value).resolution == "720"


@pytest.mark.parametrize(
    "variant",
    [
        {"model": "2B"},
        {"model": "2B", "resolution": "112"},
        {"resolution": "720"},
        {"fps": 16},
        {"model": "14B", "resolution": "480", "fps": 12},
        {"model": "2b"},
        {"aspect_ratio": "2:1"},
        {"resolution": "1080"},
    ],
)
def test_variants_that_do_not_exist_are_refused(variant):
    with pytest.raises(ValidationError):
        scenario(**variant)
    with pytest.raises(ValidationError):
        ScenarioDefaults.model_validate(variant)


def test_geometry_follows_the_variant():
    geometry = scenario(model="14B", resolution="480", fps=16, aspect_ratio="9:16").geometry
    assert (geometry.width, geometry.height, geometry.num_frames) == (432, 768, 93)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("night", [("night", 1.0)]),
        ("night:0.5", [("night", 0.5)]),
        (" night : 0.5 , its-collision@production:-2 ", [("night", 0.5), ("its-collision@production", -2.0)]),
        (["night", "rain:0"], [("night", 1.0), ("rain", 0.0)]),
        ([{"name": "night", "strength": 0.5}, {"name": "rain"}], [("night", 0.5), ("rain", 1.0)]),
        ([{"name": "night", "strength": None}], [("night", 1.0)]),
        ({"name": "night"}, [("night", 1.0)]),
        ((AdapterUse(name="night"),), [("night", 1.0)]),
        ([], []),
        ("", []),
    ],
)
def test_adapters_come_in_many_forms(value, expected):
    assert [(use.name, use.strength) for use in scenario(adapters=value).adapters] == expected


@pytest.mark.parametrize(
    "value",
    [
        "night:11",
        "night:-10.5",
        "night:",
        "night:nan",
        ":1",
        "night,",
        "night,night:0.5",
        "a/b",
        "../x",
        5,
        [5],
        [{"strength": 1}],
        [{"name": "a", "alpha": 1}],
        [{"name": "a", "strength": True}],
        [f"a{number}" for number in range(17)],
        None,
    ],
)
def test_wrong_adapters_are_refused(value):
    with pytest.raises(ValidationError, match="adapters"):
        scenario(adapters=value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"weather": "rain", "time_of_day": "night"}, {"weather": "rain", "time_of_day": "night"}),
        ('{"weather": "rain"}', {"weather": "rain"}),
        ([("weather", "rain")], {"weather": "rain"}),
        ({"actors": 3, "cars": 2.0}, {"actors": "3", "cars": "2"}),
        ({"weather": None, "actors": "", "incident": float("nan")}, {}),
        ({"note": "unicode 雨 ☔"}, {"note": "unicode 雨 ☔"}),
    ],
)
def test_labels_come_in_many_forms(value, expected):
    assert scenario(labels=value).labels == expected


@pytest.mark.parametrize(
    "value",
    [
        {"Weather": "rain"},
        {"1st": "x"},
        {"a b": "x"},
        {"": "x"},
        {"a": True},
        {"a": 1.5},
        {"a": ["x"]},
        {"a": "x" * 1001},
        {"a": "\ud800"},
        {1: "x"},
        "weather=rain",
        "[1]",
        '["a"]',
        "[" * 100_000,
        5,
        [("a", "x"), ("a", "y")],
    ],
)
def test_wrong_labels_are_refused(value):
    assert refused(labels=value)[0] == "labels"


def test_records_are_frozen_and_know_no_other_fields():
    with pytest.raises(ValidationError, match="frozen"):
        scenario().seed = 5
    with pytest.raises(ValidationError, match="Extra inputs"):
        scenario(sed=5)
    with pytest.raises(ValidationError, match="Extra inputs"):
        ScenarioDefaults.model_validate({"prompt": "x"})


def test_a_scenario_survives_json_and_pickle():
    full = scenario(adapters="night:0.5", labels={"weather": "rain"}, output_name="a/b.mp4", negative_prompt="", seed=9)
    assert Scenario.model_validate_json(full.model_dump_json()) == full
    assert Scenario.model_validate(full.model_dump(mode="json")) == full
    assert pickle.loads(pickle.dumps(full)) == full


def test_a_row_tells_given_from_not_given():
    bare = ScenarioRow.model_validate({"input": "a.jpg", "prompt": "x"})
    assert bare.given() == {"input": "a.jpg", "prompt": "x"}
    explicit = ScenarioRow.model_validate(
        {"input": "a.jpg", "prompt": "x", "negative_prompt": "", "adapters": [], "seed": 0, "labels": {}}
    )
    assert explicit.given() == {"input": "a.jpg", "prompt": "x", "negative_prompt": "", "adapters": [], "seed": 0}
