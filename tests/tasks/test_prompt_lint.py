"""Each rule of the linter has prompts that break it and prompts that come near and do not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cosmos_core.errors import BadConfig
from tasks.config import find_config_file
from tasks.lexicon import load_lexicon
from tasks.lint_words import load_lint_words
from tasks.prompt_lint import RULES, PromptLinter
from tasks.prompt_tokens import token_counter

# The example prompts of the guide to the post-trained model, word for word.
GUIDE = (
    "A static traffic CCTV camera captures an urban street scene, where two cars are speeding down the "
    "road. Suddenly, a white sedan abruptly enters from an intersection, cutting across traffic and "
    "colliding with one of the vehicles. The impact causes significant damage. Both vehicles come to a "
    "halt following the crash.",
    "A static traffic CCTV camera captures a busy four-way intersection during daytime. A red sedan runs "
    "a red light and enters the intersection at high speed. From the right, a white SUV proceeds legally "
    "and collides with the sedan's passenger side. The impact causes the sedan to spin and both vehicles "
    "come to rest blocking traffic.",
    "A traffic CCTV camera shows a multi-lane highway with moderate traffic flow. A silver pickup truck "
    "suddenly brakes hard, and a black sedan following too closely crashes into its rear bumper. The "
    "sedan's front crumples while the pickup is pushed forward several meters.",
    "A static traffic camera captures an urban crosswalk where pedestrians are crossing. A delivery van "
    "takes a sharp right turn without yielding, causing pedestrians to jump back quickly. The van swerves "
    "to avoid contact and continues through the intersection.",
    "A static traffic cctv camera captures an urban intersection where multiple vehicles navigate through "
    "the busy streets.",
)
GOOD = (
    "A static traffic CCTV camera captures an urban street during the day in clear weather. A red sedan "
    "brakes and a white SUV runs into its rear. Both vehicles come to rest."
)
ACTORS = {"actors": "red sedan, white SUV"}


@pytest.fixture(scope="module")
def linter():
    return PromptLinter(
        words=load_lint_words(find_config_file(Path("configs/prompts/its-lint.yaml"))),
        lexicon=load_lexicon(find_config_file(Path("configs/guardrail/lexicon.yaml"))),
        tokens=token_counter(None),
    )


@pytest.mark.parametrize("prompt", [GOOD, *GUIDE])
def test_the_prompts_of_the_guide_are_clean(linter, prompt):
    assert linter.lint(prompt) == ()


BROKEN = [
    ("camera-missing", GOOD.partition(". ")[2], {}),
    ("camera-late", "Cars cross a street, seen by a static traffic camera, and move on.", {}),
    ("camera-moving", GOOD + " The camera pans left.", {}),
    ("camera-moving", "Dashcam view: " + GOOD, {}),
    ("camera-moving", "A drone shot of a highway where cars pass each other in two lanes.", {}),
    ("scene-cut", GOOD + " Cut to a wide view.", {}),
    ("scene-missing", "A static traffic CCTV camera captures two cars that collide and come to rest.", {}),
    ("incident-missing", "A static traffic CCTV camera captures an empty urban street in fog.", {}),
    ("aftermath-missing", GOOD.replace(" Both vehicles come to rest.", ""), {}),
    ("aftermath-missing", GOOD.partition(" runs into")[0] + " brakes.", {"incident_type": "rear_end"}),
    ("brand", GOOD.replace("sedan", "Toyota"), {}),
    ("brand", GOOD.replace("sedan", "volkswagen golf"), {}),
    ("brand", GOOD.replace("sedan", "Ford"), {}),
    ("brand", GOOD.replace("sedan", "Mercedes-Benz's sedan"), {}),
    ("street-name", GOOD.replace("an urban street", "Main Street"), {}),
    ("street-name", GOOD.replace("an urban street", "the corner of Elm St. and a road"), {}),
    ("street-name", GOOD.replace("an urban street", "5th Avenue"), {}),
    ("street-name", GOOD.replace("an urban street", "Interstate 95"), {}),
    ("overlay", GOOD + " A timestamp is in the corner.", {}),
    ("style", GOOD + " The impact is in slow motion.", {}),
    ("intent", GOOD.replace("A red sedan", "An angry driver in a red sedan"), {}),
    ("appearance", GOOD + " A young woman gets out and stops.", {}),
    ("appearance", GOOD + " A man in a jacket waits.", {}),
    ("person-unexpected", GOOD + " A pedestrian waits.", ACTORS),
    ("unsafe-words", GOOD + " There is blood on the road.", {}),
    ("unsafe-words", GOOD + " The plate reads KLM-4821.", {}),
    ("label-contradiction", GOOD, {"time_of_day": "night"}),
    ("label-contradiction", GOOD, {"weather": "heavy_rain"}),
    ("label-contradiction", GOOD, {"actors": "red sedan, black SUV"}),
    ("label-contradiction", GOOD, {"incident_type": "head_on"}),
    ("label-contradiction", GOOD, {"incident_type": "none"}),
    ("label-missing", GOOD, {"actors": "red sedan, white SUV, bus"}),
    ("label-missing", GOOD, {"actors": "red sedan, blue van"}),
    ("self-contradiction", GOOD.replace("clear weather", "clear weather at night"), {}),
    ("self-contradiction", GOOD.replace("during the day in clear weather", "at night in bright sunshine"), {}),
    ("self-contradiction", GOOD.replace("brakes", "brakes in the rain"), {}),
    ("not-plain", GOOD.replace("static", "**static**"), {}),
    ("not-plain", GOOD + " 충돌", {}),
    ("too-short", "A traffic camera: a crash, then rest.", {}),
    ("too-long", GOOD + " The vehicles come to rest." * 40, {}),
    ("truncated", GOOD + " The vehicles come to rest." * 120, {}),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "prompt", "labels"), BROKEN)
def test_a_broken_rule_is_found_and_explained(linter, rule, prompt, labels):
    found = [finding for finding in linter.lint(prompt, labels) if finding.rule == rule]
    assert found, [finding.rule for finding in linter.lint(prompt, labels)]
    assert all(finding.severity == RULES[rule].severity for finding in found)
    assert all(finding.excerpt and finding.message and finding.fix for finding in found)
    assert all(len(finding.excerpt) <= 60 for finding in found)


def test_every_rule_has_a_prompt_that_breaks_it():
    assert {rule for rule, _, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        (GOOD, {"time_of_day": "day", "weather": "clear", "incident_type": "rear_end", **ACTORS}),
        (GOOD, {"actors": "sedan, SUV"}),
        (GOOD, {"actors": "red car, white SUV"}),
        (GOOD, {"time_of_day": "rush_hour", "weather": "sandstorm", "incident_type": "odd", "operator": "J. Doe"}),
        (GOOD.replace("A red sedan", "The driver of a red sedan"), ACTORS),
        (GUIDE[3], {"actors": "van, pedestrian", "incident_type": "pedestrian_near_miss"}),
        (GOOD.replace("brakes", "dodges a seat on a narrow road by a ford"), {}),
        (GOOD.replace("an urban street", "a side street. Urban Road traffic is light"), {}),
        (GOOD.replace("SUV runs into its rear", "SUV’s front hits its rear"), {}),
        ("A static traffic camera captures cars that cross a dry junction in turn.", {"incident_type": "none"}),
    ],
)  # fmt: skip
def test_what_only_comes_near_is_left_alone(linter, prompt, labels):
    assert linter.lint(prompt, labels) == ()


@pytest.mark.parametrize("word", ["red-", "red ", "static ", "static, traffic ", "x-", "a car ", "<"])
def test_a_hostile_prompt_takes_seconds_at_most(linter, word):
    started = time.monotonic()
    linter.lint((word * 20_000)[:20_000], ACTORS)
    assert time.monotonic() - started < 10  # a tenth of a second on an idle machine


def test_errors_stand_before_warnings(linter):
    severities = [finding.severity for finding in linter.lint("The camera pans over a Toyota.")]
    assert severities == sorted(severities)
    assert set(severities) == {"error", "warning"}


@pytest.mark.parametrize(
    "text",
    ["", "a: [", "id: x", "id: x\nversion: 1\nbrands: []", "- x"],
    ids=["empty", "yaml", "short", "none", "list"],
)
def test_wrong_word_lists_are_refused(tmp_path, text):
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(BadConfig, match="cannot be used"):
        load_lint_words(tmp_path / "words.yaml")


def test_the_hash_of_the_lists_is_that_of_their_content(tmp_path):
    shipped = find_config_file(Path("configs/prompts/its-lint.yaml"))
    first = load_lint_words(shipped)
    (tmp_path / "a.yaml").write_text("# a comment\n" + shipped.read_text())
    (tmp_path / "b.yaml").write_text(shipped.read_text().replace("bokeh", "blur"))
    assert load_lint_words(tmp_path / "a.yaml").sha256 == first.sha256
    assert load_lint_words(tmp_path / "b.yaml").sha256 != first.sha256
