"""Labels and the prompts built from them: everything labelled is told, nothing else, and no tool finds fault."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from cosmos_core.errors import BadConfig, BadScenario
from tasks.config import find_config_file
from tasks.labels_file import read_labels, rows_of_labels
from tasks.lexicon import load_lexicon
from tasks.lint_words import load_lint_words
from tasks.prompt_builder import build_prompt, manifest_labels
from tasks.prompt_labels import INCIDENT_RULES, label_choices, parse_labels
from tasks.prompt_lint import PromptLinter
from tasks.prompt_tokens import token_counter
from tasks.template_refiner import TemplateRefiner

CHOICES = label_choices()


def actor(kind, colour=None, direction=None):
    return {"type": kind, "colour": colour, "direction": direction}


ACTORS = {
    "none": [[actor("bus", "orange")], [actor("sedan"), actor("suv", "red", "from_left"), actor("taxi")]],
    "rear_end": [
        [actor("sedan", "black"), actor("pickup", "silver", "away_from_camera")],
        [actor("car"), actor("car")],
    ],
    "t_bone": [[actor("sedan", "red", "from_left"), actor("suv", "white", "towards_camera")]],
    "head_on": [[actor("van", "blue", "from_left"), actor("hatchback", "green", "from_right")]],
    "sideswipe": [[actor("semi_truck", "white"), actor("motorcycle", "black")]],
    "pileup": [[actor("car", "grey"), actor("car", "grey"), actor("truck", "brown")]],
    "run_off_road": [[actor("motorcycle", "yellow", "from_right")]],
    "stalled": [[actor("truck", "white")]],
    "pedestrian_near_miss": [[actor("van", "white"), actor("pedestrian", None, "from_left")]],
}


def labels(incident, actors=None, **changes):
    rule = INCIDENT_RULES[incident]
    known = {
        "road_layout": (rule.layouts or ("highway",))[0],
        "time_of_day": "day",
        "weather": "clear",
        "incident": incident,
        "actors": actors or ACTORS[incident][0],
        "aftermath": rule.aftermaths[0],
    }
    return parse_labels(known | changes)


def everything():
    """Each value of each label, in every combination that it could break."""
    for incident, rule in INCIDENT_RULES.items():
        layouts = rule.layouts or CHOICES["road_layout"]
        for actors, layout, aftermath in itertools.product(ACTORS[incident], layouts, rule.aftermaths):
            yield labels(incident, actors, road_layout=layout, aftermath=aftermath)
        for time, weather, camera in itertools.product(CHOICES["time_of_day"], CHOICES["weather"], CHOICES["camera"]):
            yield labels(incident, time_of_day=time, weather=weather, camera=camera)
    for traffic in CHOICES["traffic"]:
        yield labels("rear_end", traffic=traffic)


@pytest.fixture(scope="module")
def linter():
    return PromptLinter(
        words=load_lint_words(find_config_file(Path("configs/prompts/its-lint.yaml"))),
        lexicon=load_lexicon(find_config_file(Path("configs/guardrail/lexicon.yaml"))),
        tokens=token_counter(None),
    )


def test_no_tool_finds_fault_with_a_built_prompt(linter):
    seen = 0
    for item in everything():
        prompt, plain = build_prompt(item), manifest_labels(item)
        refined = TemplateRefiner().refine(prompt, plain)
        assert (refined.changed, refined.notes) == (False, ()), prompt
        assert linter.lint(prompt, plain) == (), prompt
        seen += 1
    assert seen > 1000


def test_equal_labels_give_equal_text_and_different_labels_different_text():
    items = list(dict.fromkeys(everything()))
    prompts = [build_prompt(item) for item in items]
    assert len(set(prompts)) == len(items)
    assert [build_prompt(item.model_copy()) for item in items] == prompts


def test_the_four_parts_in_their_order():
    assert build_prompt(labels("t_bone", traffic="heavy", weather="heavy_rain", time_of_day="night")) == (
        "A static traffic CCTV camera captures a four-way intersection with heavy traffic at night in heavy rain. "
        "A red sedan from the left enters the intersection at speed without yielding. A white SUV driving towards the "
        "camera proceeds with the right of way and collides with the side of the red sedan. "
        "Both vehicles come to rest on the road."
    )


def test_equal_vehicles_are_told_apart():
    prompt = build_prompt(labels("pileup"))
    assert "The first grey car brakes suddenly. The second grey car runs into its rear. A brown truck" in prompt


def test_manifest_labels_are_text_that_a_manifest_takes():
    [row] = rows_of_labels([(labels("rear_end", traffic="light"), {"input": "a.jpg"})])
    assert row.labels["incident_type"] == "rear_end"
    assert row.labels["actors"] == "black sedan, silver pickup truck"
    assert row.labels["traffic"] == "light"
    assert row.prompt.endswith(row.labels["aftermath"])


@pytest.mark.parametrize(
    ("incident", "changes", "message"),
    [
        ("t_bone", {"road_layout": "highway"}, "t_bone at four_way_intersection"),
        ("t_bone", {"actors": [actor("sedan")]}, "2 actors for t_bone, not 1"),
        ("none", {"actors": [actor("sedan")] * 4}, "1 to 3 actors for none"),
        ("rear_end", {"aftermath": "flows_on"}, "as aftermath of rear_end, not flows_on"),
        ("rear_end", {"actors": [actor("sedan"), actor("pedestrian")]}, "vehicles only for rear_end"),
        ("pedestrian_near_miss", {"actors": [actor("van"), actor("suv")]}, "a vehicle and then a pedestrian"),
        ("rear_end", {"traffic": "light", "aftermath": "queue"}, "moderate or heavy traffic for a queue"),
        ("rear_end", {"weather": "sunny"}, "label weather: got 'sunny', expected 'clear'"),
        ("rear_end", {"mood": "x"}, "label mood"),
        (
            "head_on",
            {"actors": [actor("van", None, "from_left"), actor("suv", None, "from_left")]},
            "opposite directions for head_on",
        ),
        (
            "rear_end",
            {"actors": [actor("van", None, "from_left"), actor("suv", None, "from_right")]},
            "one direction for rear_end",
        ),
        (
            "t_bone",
            {"actors": [actor("van", None, "from_left"), actor("suv", None, "from_right")]},
            "crossing directions for t_bone",
        ),
        (
            "pedestrian_near_miss",
            {"actors": [actor("van"), actor("pedestrian", "red")]},
            "what persons look like",
        ),
    ],
)
def test_labels_that_do_not_fit_say_what_would(incident, changes, message):
    with pytest.raises(BadScenario, match=message):
        labels(incident, **changes)


def test_the_shipped_labels_build(repository):
    rows = rows_of_labels(read_labels(repository / "examples/matrix/labels.yaml"))
    assert [row.labels["incident_type"] for row in rows] == ["t_bone", "pedestrian_near_miss", "pileup"]
    assert rows[2].num_steps == 12


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a: [", BadConfig, "cannot be read"),
        ("scenarios: {}", BadConfig, "a list of scenarios"),
        ("[]", BadConfig, "a list of scenarios"),
        ("- {input: a.jpg}", BadScenario, "scenario 0: .*a mapping with labels"),
        ("- {input: a.jpg, prompt: x, labels: {}}", BadScenario, "scenario 0: prompt: .*it is built"),
        ("- {input: a.jpg, labels: {weather: x}}", BadScenario, "scenario 0: label"),
    ],
)
def test_a_wrong_labels_file_is_named(tmp_path, text, error, message):
    (tmp_path / "labels.yaml").write_text(text)
    with pytest.raises(error, match=message):
        read_labels(tmp_path / "labels.yaml")


@pytest.mark.parametrize(("columns", "message"), [({}, "scenario 0: input"), ({"input": "a", "seed": -1}, "seed")])
def test_a_wrong_column_is_named(columns, message):
    with pytest.raises(BadScenario, match=message):
        rows_of_labels([(labels("stalled"), columns)])
