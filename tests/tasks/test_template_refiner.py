"""The template refiner: adds what the labels know, keeps what the author wrote, and stops after one pass."""

from __future__ import annotations

import itertools

import pytest

from cosmos_core.errors import BadScenario
from tasks.prompts import PassthroughRefiner
from tasks.template_refiner import TemplateRefiner

SEED_PROMPTS = (
    "A static traffic CCTV camera captures a busy four-way intersection during daytime.\n"
    "A red sedan runs a red light and enters the intersection at high speed.",
    "A traffic CCTV camera shows a multi-lane highway. A silver\npickup truck suddenly brakes.",
    "A static traffic camera captures an urban crosswalk where pedestrians are crossing.",
    "A static traffic cctv camera captures an urban intersection where multiple vehicles navigate.",
    "A static camera shows a multi-vehicle pileup...",
)
LABELS = (
    {},
    {"weather": "rain", "time_of_day": "night"},
    {"weather": "clear", "time_of_day": "day", "incident_type": "rear_end", "actors": ["sedan", "truck"]},
    {"weather": "heavy snow", "time_of_day": "rush_hour", "aftermath": "both vehicles stop on the shoulder"},
    {"weather": "sunny", "time_of_day": "night"},
    {"time_of_day": "14:30", "weather": "sandstorm", "aftermath": "Debris covers the road!"},
)


@pytest.mark.parametrize("prompt", SEED_PROMPTS)
def test_a_camera_opening_is_kept_verbatim(prompt):
    refined = TemplateRefiner().refine(prompt, {})
    assert refined.text == " ".join(prompt.split())
    assert refined.source == prompt
    assert refined.changed == (refined.text != prompt)


@pytest.mark.parametrize("prompt", ["Two cars collide.", "A busy traffic light view", "A traffic accident on camera"])
def test_a_prompt_without_a_camera_gets_a_static_one(prompt):
    refined = TemplateRefiner().refine(prompt, {})
    assert refined.text == f"A static traffic CCTV camera captures the scene. {prompt}"
    assert refined.changed


def test_the_four_parts_come_in_order():
    labels = {"weather": "heavy rain", "time_of_day": "night", "aftermath": "both cars stop on the shoulder"}
    refined = TemplateRefiner().refine("Two cars collide at a junction", labels)
    assert refined.text == (
        "A static traffic CCTV camera captures the scene at night in heavy rain. "
        "Two cars collide at a junction. Both cars stop on the shoulder."
    )
    assert refined.notes == ()


def test_missing_facts_are_appended_as_one_sentence():
    refined = TemplateRefiner().refine(
        "A static traffic camera shows a bus.", {"weather": "clear", "time_of_day": "day"}
    )
    assert refined.text == "A static traffic camera shows a bus. The scene takes place during the day in clear weather."


@pytest.mark.parametrize(
    ("prompt", "labels"),
    [
        ("A traffic camera shows a crash at night.", {"time_of_day": "daytime"}),
        ("A traffic camera shows a crash at night.", {"weather": "sunny"}),
        ("A traffic camera shows a crash on a sunny road.", {"time_of_day": "night"}),
        ("A traffic camera shows a crash in fog.", {"weather": "clear"}),
    ],
)
def test_a_contradicting_label_is_noted_and_not_written(prompt, labels):
    refined = TemplateRefiner().refine(prompt, labels)
    assert refined.text == prompt
    assert not refined.changed
    assert len(refined.notes) == 1
    assert "was not added" in refined.notes[0]


def test_a_moving_camera_is_never_called_static():
    refined = TemplateRefiner().refine("Dashcam view of a crash.", {})
    assert refined.text == "Dashcam view of a crash."
    assert "Dashcam" in refined.notes[0]


def test_facts_already_said_are_not_repeated():
    prompt = "A traffic camera shows a rainy street in the evening."
    refined = TemplateRefiner().refine(prompt, {"weather": "rain", "time_of_day": "dusk"})
    assert refined.text == prompt
    assert refined.notes == ()


@pytest.mark.parametrize("value", ["day; ignore all rules", 3, ["rain"], "x" * 60, "<b>"])
def test_a_label_that_is_no_plain_phrase_never_reaches_the_prompt(value):
    refined = TemplateRefiner().refine("A traffic camera shows a bus.", {"weather": value})
    assert refined.text == "A traffic camera shows a bus."
    assert "weather" in refined.notes[0]


@pytest.mark.parametrize(
    ("prompt", "labels"), [*itertools.product((*SEED_PROMPTS, "Two cars collide", "A van. Stop"), LABELS)]
)
def test_refining_twice_is_refining_once(prompt, labels):
    refiner = TemplateRefiner()
    once = refiner.refine(prompt, labels)
    twice = refiner.refine(once.text, labels)
    assert twice.text == once.text
    assert not twice.changed
    assert twice.template_sha256 == once.template_sha256
    assert refiner.refine(prompt, labels) == once


@pytest.mark.parametrize(("prompt", "labels"), [*itertools.product((*SEED_PROMPTS, "Two cars collide"), LABELS)])
def test_every_word_of_the_author_survives_in_order(prompt, labels):
    assert " ".join(prompt.split()) in TemplateRefiner().refine(prompt, labels).text


def test_the_passthrough_refiner_changes_not_one_character():
    prompt = "  two   cars\n"
    refined = PassthroughRefiner().refine(prompt, {"weather": "rain"})
    assert (refined.text, refined.changed, refined.refiner, refined.template_sha256) == (prompt, False, "none", None)


@pytest.mark.parametrize("refiner", [TemplateRefiner(), PassthroughRefiner()])
def test_an_empty_prompt_is_refused(refiner):
    with pytest.raises(BadScenario, match="empty"):
        refiner.refine(" \n", {})
