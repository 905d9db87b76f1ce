"""Rewritings that keep the facts pass, each change of a fact is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.config import find_config_file
from tasks.lexicon import load_lexicon
from tasks.lint_words import load_lint_words
from tasks.prompt_lint import PromptLinter
from tasks.prompt_tokens import token_counter
from tasks.refined_facts import broken_facts
from tasks.refiner_instructions import load_instructions

SOURCE = (
    "A static traffic CCTV camera captures a four-way intersection at night. A red sedan enters at speed. From the "
    "right, a white SUV proceeds and collides with its side. Both vehicles come to rest."
)
FAITHFUL = (
    "A static traffic CCTV camera captures a lit four-way intersection at night with painted crosswalks. A red sedan "
    "enters the intersection at speed. From the right, a white SUV proceeds and collides with its side. The red sedan "
    "spins once. Both vehicles come to rest and block traffic."
)


@pytest.fixture(scope="module")
def tools():
    linter = PromptLinter(
        words=load_lint_words(find_config_file(Path("configs/prompts/its-lint.yaml"))),
        lexicon=load_lexicon(find_config_file(Path("configs/guardrail/lexicon.yaml"))),
        tokens=token_counter(None),
    )
    return {
        "linter": linter,
        "instructions": load_instructions(find_config_file(Path("configs/prompts/its-refiner.yaml"))),
    }


def test_a_faithful_rewriting_passes(tools):
    assert broken_facts(FAITHFUL, SOURCE, {}, **tools) == ()
    assert broken_facts(SOURCE, SOURCE, {}, **tools) == ()


def test_what_the_picture_shows_of_the_road_may_be_told(tools):
    seen = FAITHFUL.replace(
        "painted crosswalks", "white lane markings, three lanes, a two-way side road and a grey sky"
    )
    assert broken_facts(seen, SOURCE, {}, **tools) == ()


def test_labels_may_be_told(tools):
    rainy = FAITHFUL.replace("at night", "at night in heavy rain")
    assert broken_facts(rainy, SOURCE, {"weather": "heavy_rain"}, **tools) == ()
    assert broken_facts(rainy, SOURCE, {}, **tools) == ()  # the picture may show it
    assert "it changed the weather to 'rain'" in broken_facts(rainy, SOURCE, {"weather": "clear"}, **tools)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("red sedan", "blue sedan", "it lost the colour 'red'"),
        ("red sedan", "blue sedan", "it added a blue sedan"),
        ("sedan", "pickup truck", "it lost the vehicle 'sedan'"),
        ("A red sedan enters", "A white sedan and a red SUV enter", "it added a red suv"),
        ("a white SUV proceeds", "a white SUV and a bus proceed", "it added the vehicle 'bus'"),
        ("From the right", "From the left", "it lost the direction 'from the right'"),
        ("From the right", "From the left", "it added the direction 'from the left'"),
        ("at night", "during the day", "it changed the time of day to 'day'"),
        ("at night", "", "it lost the time of day 'night'"),
        ("four-way", "three-way", "it lost the number 4"),
        ("Both vehicles come", "All three vehicles come", "it added the number 3"),
        ("intersection", "roundabout", "it lost the place 'intersection'"),
        ("collides with its side", "collides head-on with it", "it added the incident 'head_on'"),
        ("collides with its side", "stops just in time", "it lost the collision"),
        ("The red sedan spins once.", "A pedestrian watches.", "it added a person (pedestrian)"),
        ("The red sedan spins once.", "The driver is thrown out.", "it added a person (driver)"),
        ("The red sedan spins once.", "Another vehicle hits a third one.", "it tells of 3 vehicles instead of 2"),
        ("The red sedan spins once.", "Blood is on the road.", "graphic_gore"),
        ("The red sedan spins once.", "The red sedan catches fire.", "it added the hazard 'fire'"),
        ("The red sedan spins once.", "A dog crosses.", "it added the hazard 'animal'"),
        ("The red sedan spins once.", "A second sedan stops.", "it tells of 3 vehicles instead of 2"),
        (
            "A red sedan",
            "A white SUV waits as a red sedan",
            "it tells of the white suv first, the caption of the red sedan",
        ),
        ("red sedan", "red Toyota sedan", "(brand)"),
        ("intersection at night", "intersection on Main Street at night", "(street-name)"),
        ("The red sedan spins once.", "The camera zooms in.", "(camera-moving)"),
        ("The red sedan spins once.", "Because he is drunk, it spins.", "(intent)"),
        ("The red sedan spins once.", "The plate reads ABC-1234.", "pii_text_plate"),
        ("The red sedan spins once.", "It looks cinematic.", "(style)"),
        ("The red sedan spins once.", "The red sedan spins. " * 40, "words instead of 20 to 120"),
    ],
)
def test_each_change_of_a_fact_is_named(tools, old, new, problem):
    assert old in FAITHFUL
    problems = broken_facts(FAITHFUL.replace(old, new), SOURCE, {}, **tools)
    assert any(problem in found for found in problems), problems


def test_what_the_source_itself_says_is_not_held_against_the_rewriting(tools):
    source = SOURCE.replace("red sedan", "red Toyota sedan").replace("enters", "driven by a driver enters")
    rewritten = FAITHFUL.replace("A red sedan enters", "A red Toyota sedan, driven by a driver, enters")
    assert broken_facts(rewritten, source, {}, **tools) == ()


def test_too_short_is_too_little(tools):
    assert any("words instead of" in found for found in broken_facts("A static traffic camera.", SOURCE, {}, **tools))
