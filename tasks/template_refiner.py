"""Prompt refinement without a model: bring a prompt into the form the adapter was trained on, and invent nothing.

The form is camera, scene, incident, aftermath. The refiner may add a static-camera opening, one clause with the
weather and the time of day, and an aftermath sentence, the last two only from the scenario's labels. It never
rewrites what the author wrote and never adds what contradicts it. Refining twice is refining once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cosmos_core.hashing import sha256_json
from tasks.prompts import InputFile, RefinedPrompt, require_text
from tasks.traffic_words import OTHER_CAMERA, STATIC_CAMERA, TIME_OF_DAY, WEATHER, meanings, says

__all__ = ["TemplateRefiner"]

_CAMERA = "A static traffic CCTV camera captures the scene"
_SCENE = "The scene takes place"

_BARE_LABELS = {"weather": {"clear": "clear", "sun": "clear"}, "time_of_day": {}}
_ATTRIBUTES = {"weather": WEATHER, "time_of_day": TIME_OF_DAY}

# How a time of day reads in a sentence; any other label reads "at <label>".
_TIME_PHRASES = {
    "during the day": ("day", "daytime", "daylight"),
    "at night": ("night", "nighttime", "night time"),
    "in the morning": ("morning",),
    "in the afternoon": ("afternoon",),
    "in the evening": ("evening",),
}
_WEATHER_NOUN = (
    r"(?:rain|drizzle|downpour|snow|snowfall|blizzard|sleet|hail|fog|mist|haze|smog|sunshine|\w*storm|wind|winds)"
)

_LABEL = re.compile(r"[\w][\w :'-]{0,40}")
_MAX_AFTERMATH_WORDS = 40


class TemplateRefiner:
    """The traffic-incident template."""

    name = "template"

    def refine(self, prompt: str, labels: Mapping[str, Any], frame: InputFile | None = None) -> RefinedPrompt:
        """Add what the form asks for and the labels know.

        Args:
            labels: free-form; `weather`, `time_of_day` and `aftermath` are read.

        Raises:
            BadScenario: the prompt is empty.
        """
        require_text(prompt)
        text = " ".join(prompt.split())
        notes: list[str] = []
        facts = " ".join(_missing_facts(text, labels, notes))
        if not STATIC_CAMERA.match(text):
            if other := OTHER_CAMERA.search(text):
                notes.append(f"no static camera was added: the prompt speaks of {other[0]!r}")
            else:
                text = f"{_CAMERA}{' ' if facts else ''}{facts}. {text}"
                facts = ""
        elif other := OTHER_CAMERA.search(text):
            notes.append(f"the prompt names a static camera and also {other[0]!r}")
        if facts:
            text = _append(text, f"{_SCENE} {facts}.")
        if aftermath := _aftermath(text, labels, notes):
            text = _append(text, aftermath)
        return RefinedPrompt(
            text=text,
            source=prompt,
            refiner=self.name,
            template_sha256=_template_sha256(),
            changed=text != prompt,
            notes=tuple(notes),
        )

    def close(self) -> None:
        """Nothing was started."""


def _template_sha256() -> str:
    patterns = [STATIC_CAMERA.pattern, OTHER_CAMERA.pattern, _WEATHER_NOUN, _LABEL.pattern]
    phrases = {phrase: list(values) for phrase, values in _TIME_PHRASES.items()}
    return sha256_json([_CAMERA, _SCENE, _ATTRIBUTES, _BARE_LABELS, phrases, patterns, _MAX_AFTERMATH_WORDS])


def _missing_facts(text: str, labels: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Clauses for the labelled facts that the text leaves open, time of day first."""
    clauses: list[str] = []
    for attribute, phrase in (("time_of_day", _time_clause), ("weather", _weather_clause)):
        label = _label(labels, attribute, notes)
        if label is None or says(text, re.escape(label)):
            continue
        said = meanings(text, _ATTRIBUTES[attribute])
        if clash := _clash(" ".join([text, *clauses]), attribute, label):
            notes.append(f"label {attribute} {label!r} was not added: it does not fit {clash}")
        elif not said:
            clauses.append(phrase(label))
        elif not _label_values(attribute, label) & said:
            notes.append(
                f"label {attribute} {label!r} was not added: the prompt already says {', '.join(sorted(said))}"
            )
    return clauses


def _label(labels: Mapping[str, Any], name: str, notes: list[str]) -> str | None:
    value = labels.get(name)
    if value is None or value == "":
        return None
    words = " ".join(str(value).replace("_", " ").split()).lower()
    if isinstance(value, str) and _LABEL.fullmatch(words):
        return words
    notes.append(f"label {name} was not used: it is not a short plain phrase")
    return None


def _label_values(attribute: str, label: str) -> set[str]:
    bare = _BARE_LABELS[attribute].get(label)
    return {bare} if bare else meanings(label, _ATTRIBUTES[attribute])


def _clash(text: str, attribute: str, label: str) -> str | None:
    """What the text says of another attribute that the label rules out: sunny weather at night."""
    for other, vocabulary in _ATTRIBUTES.items():
        implied, said = meanings(label, vocabulary), meanings(text, vocabulary)
        if other != attribute and implied and said and not implied & said:
            return ", ".join(sorted(said))
    return None


def _time_clause(label: str) -> str:
    for phrase, values in _TIME_PHRASES.items():
        if label in values:
            return phrase
    return f"at {label}"


def _weather_clause(label: str) -> str:
    return f"in {label}" if re.search(rf"\b{_WEATHER_NOUN}$", label) else f"in {label} weather"


def _aftermath(text: str, labels: Mapping[str, Any], notes: list[str]) -> str | None:
    value = labels.get("aftermath")
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not 1 <= len(value.split()) <= _MAX_AFTERMATH_WORDS:
        notes.append(f"label aftermath was not used: it is not a text of 1 to {_MAX_AFTERMATH_WORDS} words")
        return None
    sentence = " ".join(value.split()).rstrip(" .!?")
    if not sentence or sentence.casefold() in text.casefold():
        return None
    return f"{sentence[0].upper()}{sentence[1:]}."


def _append(text: str, sentence: str) -> str:
    closed = text if text[-1] in ".!?\"'”)" else f"{text}."
    return f"{closed} {sentence}"
