"""What a model may answer: one whole JSON object with four parts, and nothing that is merely near to it."""

from __future__ import annotations

import json

import pytest

from tasks.refined_answer import UnusableAnswer, refined_text
from tasks.refiner_instructions import Answer

PARTS = {
    "camera": "A static traffic CCTV camera",
    "scene": "A four-way intersection at night in rain",
    "incident": "A red sedan brakes. A white SUV runs into its rear.",
    "aftermath": "both vehicles come to rest",
}
TEXT = (
    "A static traffic CCTV camera captures a four-way intersection at night in rain. "
    "A red sedan brakes. A white SUV runs into its rear. Both vehicles come to rest."
)
GOOD = json.dumps(PARTS)


def read(text, finish_reason="stop"):
    return refined_text(Answer(text=text, finish_reason=finish_reason))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"<think>The picture shows {{a road}}.</think>\n\n{GOOD}",
        f"The picture shows a road.</think>{GOOD}",
        f"<think>x</think><answer>\n{GOOD}\n</answer>",
        f"<answer>no</answer> <answer>{GOOD}</answer>",
        json.dumps(PARTS | {"camera": "A static traffic CCTV camera captures"}),
        json.dumps(PARTS | {"camera": "a static traffic CCTV camera shows.", "scene": PARTS["scene"] + "."}),
    ],
)
def test_an_answer_in_any_honest_wrapping(text):
    assert read(text).lower() == TEXT.lower()


def test_typography_becomes_plain():
    said = json.dumps(PARTS | {"incident": "A red sedan — the first — brakes\u00a0hard; the SUV’s front hits it."})
    assert "A red sedan - the first - brakes hard; the SUV's front hits it." in read(said)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>a</think>", "empty"),
        ("<think>It never ends", "inside its reasoning"),
        (f"<answer>{GOOD}", "not closed"),
        (f"Here is the caption: {GOOD}", "not one JSON object"),
        (f"{GOOD} {GOOD}", "not one JSON object"),
        (GOOD[:-20], "not one JSON object"),
        (TEXT, "not one JSON object"),
        ("I'm sorry, but I cannot help with that.", "not one JSON object"),
        ("[1]", "parts are wrong"),
        ("null", "parts are wrong"),
        (json.dumps({**PARTS, "mood": "tense"}), "an unknown part"),
        (json.dumps({name: PARTS[name] for name in ("camera", "scene", "incident")}), "aftermath"),
        (json.dumps(PARTS | {"incident": ["A car brakes."]}), "incident"),
        (json.dumps(PARTS | {"aftermath": " . "}), "aftermath is empty"),
        (json.dumps(PARTS | {"scene": ""}), "scene is empty"),
        (json.dumps(PARTS | {"camera": "A drone camera"}), "not a static traffic camera"),
        (json.dumps(PARTS | {"camera": "A traffic camera"}), "not a static traffic camera"),
        (json.dumps(PARTS | {"camera": "A static traffic camera that follows the sedan"}), "not a static"),
        (json.dumps(PARTS | {"incident": "**Crash**"}), "markup"),
        (json.dumps(PARTS | {"scene": "교차로"}), "does not know"),
        (json.dumps(PARTS | {"scene": "a road\u200b"}), "does not know"),
    ],
)
def test_what_is_no_prompt_is_refused_with_a_reason(text, reason):
    with pytest.raises(UnusableAnswer, match=reason):
        read(text)


@pytest.mark.parametrize("finish_reason", ["length", "content_filter", None, ""])
def test_an_unfinished_answer_is_refused_even_if_it_looks_whole(finish_reason):
    with pytest.raises(UnusableAnswer, match="not finished"):
        read(GOOD, finish_reason)
