"""Prompt refinement without a model: bring a prompt into the form the adapter was trained on, and invent nothing.

The form is camera, scene, incident, aftermath. The refiner may add a static-camera opening, one clause with the
weather and the time of day, and an aftermath sentence, the last two only from the scenario's labels. It never
rewrites what the author wrote and never adds what contradicts it. Refining twice is refining once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadConfig, BadScenario
from cosmos_core.hashing import sha256_json

__all__ = ["PassthroughRefiner", "PromptRefiner", "RefinedPrompt", "TemplateRefiner", "get_refiner", "refiner_names"]

_CAMERA = "A static traffic CCTV camera captures the scene"
_SCENE = "The scene takes place"

# An opening such as "A static traffic CCTV camera" or "Footage from a fixed pole-mounted camera".
_STATIC_CAMERA = re.compile(
    r"(?:footage\s+from\s+)?(?:an?|the|this|one)?\s*"
    r"(?:(?:static|fixed|stationary|cctv|surveillance|traffic|security|overhead|roadside|intersection|highway|street|road|city"
    r"|urban|video|monitoring|wide|angle|mounted|\w+-mounted|wide-angle|high-angle|high)[\s,]+)+"
    r"(?:cameras?|cctv|(?:camera\s+)?footage)\b",
    re.IGNORECASE,
)
_OTHER_CAMERA = re.compile(
    r"\b(?:dash\s?-?cam\w*|body\s?-?cam\w*|hand-?held|drone\s+(?:camera|footage|shot|view)|aerial\s+(?:camera|footage|shot"
    r"|view)|(?:moving|panning|tracking|orbiting|shaky)\s+(?:camera|shot)|first-person|camera\s+(?:pans?|zooms?|follows?"
    r"|tracks?|tilts?|moves?|orbits?|flies|rotates?))\b",
    re.IGNORECASE,
)

# What a text says about an attribute: value -> how it is said. Only unmistakable wordings count as said, except that
# a doubtful one is listed where adding a second statement could contradict it.
_WEATHER = {
    "rain": r"rain\w*|drizzl\w*|downpour|showers",
    "snow": r"snow\w*|blizzard|sleet|hail",
    "fog": r"fog\w*|mist|misty|haze|hazy|smog",
    "clear": r"sunny|sunlit|sunshine|blue\s+sk(?:y|ies)|clear\s+(?:sk(?:y|ies)|weather|conditions?|day|night|morning)",
    "overcast": r"overcast|cloudy|gr[ae]y\s+sky",
    "storm": r"storm\w*|thunder\w*|lightning",
    "wind": r"windy|gusts?|gusty|strong\s+wind",
}
_TIME = {
    "night": r"night\w*|midnight|after\s+dark",
    "day": r"day|daytime|daylight|midday|noon|morning|afternoon|daylit|sunny|sunlit|sunshine",
    "dawn": r"dawn|sunrise|daybreak",
    "dusk": r"dusk|twilight|sunset|evening",
}
_BARE_LABELS = {"weather": {"clear": "clear", "sun": "clear"}, "time_of_day": {}}
_ATTRIBUTES = {"weather": _WEATHER, "time_of_day": _TIME}

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


class RefinedPrompt(BaseModel):
    """A prompt as it goes to the text encoder, and where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    source: str
    """The prompt as the manifest gives it."""
    refiner: str
    """`template` or `none` here; the name of whatever wrote `text`."""
    template_sha256: str | None = None
    """Hash of the template's wording and vocabulary, where there is one."""
    changed: bool
    """Whether `text` differs from `source` in any character."""
    notes: tuple[str, ...] = ()
    """What was not done and why, for the record."""


class PromptRefiner(Protocol):
    """Anything that turns a prompt and its labels into the prompt to generate from."""

    name: str

    def refine(self, prompt: str, labels: Mapping[str, Any]) -> RefinedPrompt:
        """Refine one prompt; deterministic for equal arguments."""
        ...


class PassthroughRefiner:
    """Leaves every prompt as it is."""

    name = "none"

    def refine(self, prompt: str, labels: Mapping[str, Any]) -> RefinedPrompt:
        """The prompt itself, to the character."""
        _require_text(prompt)
        return RefinedPrompt(text=prompt, source=prompt, refiner=self.name, changed=False)


class TemplateRefiner:
    """The traffic-incident template."""

    name = "template"

    def refine(self, prompt: str, labels: Mapping[str, Any]) -> RefinedPrompt:
        """Add what the form asks for and the labels know.

        Args:
            labels: free-form; `weather`, `time_of_day` and `aftermath` are read.

        Raises:
            BadScenario: the prompt is empty.
        """
        _require_text(prompt)
        text = " ".join(prompt.split())
        notes: list[str] = []
        facts = " ".join(_missing_facts(text, labels, notes))
        if not _STATIC_CAMERA.match(text):
            if other := _OTHER_CAMERA.search(text):
                notes.append(f"no static camera was added: the prompt speaks of {other[0]!r}")
            else:
                text = f"{_CAMERA}{' ' if facts else ''}{facts}. {text}"
                facts = ""
        elif other := _OTHER_CAMERA.search(text):
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


_REFINERS: dict[str, Callable[[], PromptRefiner]] = {"template": TemplateRefiner, "none": PassthroughRefiner}


def refiner_names() -> tuple[str, ...]:
    """Every name that `get_refiner` knows."""
    return tuple(_REFINERS)


def get_refiner(name: str) -> PromptRefiner:
    """The refiner of that name.

    Raises:
        BadConfig: there is none.
    """
    if name not in _REFINERS:
        raise BadConfig("unknown prompt refiner", got=name, expected=" | ".join(_REFINERS), fix="Choose one of them.")
    return _REFINERS[name]()


def _require_text(prompt: str) -> None:
    if not prompt.strip():
        raise BadScenario("the prompt is empty", got=repr(prompt[:40]), fix="Write a prompt.")


def _template_sha256() -> str:
    patterns = [_STATIC_CAMERA.pattern, _OTHER_CAMERA.pattern, _WEATHER_NOUN, _LABEL.pattern]
    phrases = {phrase: list(values) for phrase, values in _TIME_PHRASES.items()}
    return sha256_json([_CAMERA, _SCENE, _ATTRIBUTES, _BARE_LABELS, phrases, patterns, _MAX_AFTERMATH_WORDS])


def _missing_facts(text: str, labels: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Clauses for the labelled facts that the text leaves open, time of day first."""
    clauses: list[str] = []
    for attribute, phrase in (("time_of_day", _time_clause), ("weather", _weather_clause)):
        label = _label(labels, attribute, notes)
        if label is None or _says(text, re.escape(label)):
            continue
        said = _values(text, _ATTRIBUTES[attribute])
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


def _says(text: str, pattern: str) -> bool:
    return re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE) is not None


def _values(text: str, vocabulary: Mapping[str, str]) -> set[str]:
    return {value for value, pattern in vocabulary.items() if _says(text, pattern)}


def _label_values(attribute: str, label: str) -> set[str]:
    bare = _BARE_LABELS[attribute].get(label)
    return {bare} if bare else _values(label, _ATTRIBUTES[attribute])


def _clash(text: str, attribute: str, label: str) -> str | None:
    """What the text says of another attribute that the label rules out: sunny weather at night."""
    for other, vocabulary in _ATTRIBUTES.items():
        implied, said = _values(label, vocabulary), _values(text, vocabulary)
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
