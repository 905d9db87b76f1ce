"""Whether a rewritten prompt still tells the same: what the source says is kept, and nothing of weight is added.

Vehicles, colours, numbers, directions, places, times, weather and kinds of incident are compared as sets of meanings
(`traffic_words`), each colour stays with its vehicle, and the vehicles come up in the same order. This finds a swapped
colour, a new car and most swapped roles; it does not understand who hits whom.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks import traffic_words as words
from tasks.prompt_lint import PromptLinter
from tasks.prompt_tokens import MAX_TOKENS
from tasks.refiner_instructions import KNOWN_LABELS, RefinerInstructions

__all__ = ["broken_facts"]

# Kept and not added to.
_FACTS: tuple[tuple[str, Mapping[str, str]], ...] = (
    ("vehicle", words.VEHICLES),
    ("colour", words.COLOURS),
    ("direction", words.DIRECTIONS),
    ("incident", words.INCIDENTS),
    ("hazard", words.HAZARDS),
)
_SETTING = (("time of day", "time_of_day", words.TIME_OF_DAY), ("weather", "weather", words.WEATHER))
# What a form finding about a person or a length says is looked at elsewhere here, or means nothing in a rewriting.
_IGNORED_RULES = frozenset({"person-unexpected", "label-missing", "too-long", "too-short", "truncated", "not-plain"})
_VEHICLE = "|".join((*words.VEHICLES.values(), r"vehicles?|cars?"))
_ONE_VEHICLE = re.compile(rf"\b(?:an?|another|one)\s+(?:(?!and\b)[\w-]+\s+){{0,3}}?(?:{_VEHICLE})\b", re.IGNORECASE)
_COUNTED = re.compile(rf"\b(two|both|three|four|five)\s+(?:[\w-]+\s+){{0,2}}?(?:{_VEHICLE})\b", re.IGNORECASE)
_OF_THE_ROAD = re.compile(r"\b\w+[\s-](?:lanes?|way|arm|storey|lines?|rows?|sides|directions)\b", re.IGNORECASE)
_COUNTS = {"two": 2, "both": 2, "three": 3, "four": 4, "five": 5}
_SEVERAL = re.compile(
    rf"\b(?:several|multiple|many|other|some|more)\s+(?:[\w-]+\s+){{0,2}}?(?:{_VEHICLE})\b"
    r"|(?<!both )(?<!two )(?<!three )(?<!four )(?<!five )(?<!all )\b(?:vehicles|cars)\b",
    re.IGNORECASE,
)


def broken_facts(
    text: str,
    source: str,
    labels: Mapping[str, Any],
    *,
    linter: PromptLinter,
    instructions: RefinerInstructions,
) -> tuple[str, ...]:
    """Everything that a rewriting got wrong, as clauses; empty if it can be used."""
    known = {name: str(labels[name]).replace("_", " ") for name in KNOWN_LABELS if labels.get(name)}
    return tuple(
        dict.fromkeys(
            (
                *_length(text, linter, instructions),
                *_changed_meanings(text, source, " ".join(known.values())),
                *_changed_setting(text, source, known),
                *_changed_counts(text, source),
                *_new_findings(text, source, labels, linter),
            )
        )
    )


def _length(text: str, linter: PromptLinter, instructions: RefinerInstructions) -> Iterator[str]:
    num_words, num_tokens = len(text.split()), linter.tokens.count(text)
    if not instructions.min_words <= num_words <= instructions.max_words:
        yield f"it has {num_words} words instead of {instructions.min_words} to {instructions.max_words}"
    if num_tokens > MAX_TOKENS:
        yield f"it has {num_tokens} tokens, the text encoder reads {MAX_TOKENS}"


def _changed_meanings(text: str, source: str, known: str) -> Iterator[str]:
    for kind, vocabulary in _FACTS:
        before, after = words.meanings(source, vocabulary), words.meanings(text, vocabulary)
        for meaning in sorted(before - after):
            yield f"it lost the {kind} {meaning!r}"
        if vocabulary is words.COLOURS:
            continue  # lane markings and skies have colours too; what a vehicle's colour is, the pairs say
        for meaning in sorted(after - before - words.meanings(known, vocabulary)):
            yield f"it added the {kind} {meaning!r}"
    for place in sorted(words.meanings(source, words.PLACES) - words.meanings(text, words.PLACES)):
        yield f"it lost the place {place!r}"
    pairs = words.coloured_vehicles(source)
    for colour, vehicle in sorted(pairs - words.coloured_vehicles(text)):
        yield f"it lost the {colour} {vehicle}"
    for colour, vehicle in sorted(words.coloured_vehicles(text) - pairs - words.coloured_vehicles(known)):
        if not any(colour == other and "vehicle" in (same, vehicle) for other, same in pairs):
            yield f"it added a {colour} {vehicle}"
    told, retold = ([pair for pair in words.colour_order(each) if pair in pairs] for each in (source, text))
    if set(told) == set(retold) and told != retold:
        yield f"it tells of the {' '.join(retold[0])} first, the caption of the {' '.join(told[0])}"
    if words.says(text, words.COLLISION) != words.says(source, words.COLLISION):
        yield "it added a collision" if words.says(text, words.COLLISION) else "it lost the collision"
    new_persons = words.person_words(text) - words.person_words(f"{source} {known}")
    for person in sorted(new_persons):
        yield f"it added a person ({person})"


def _changed_setting(text: str, source: str, known: Mapping[str, str]) -> Iterator[str]:
    """Time and weather may be added where nothing speaks against them."""
    for kind, label, vocabulary in _SETTING:
        before, after = words.meanings(source, vocabulary), words.meanings(text, vocabulary)
        labelled = words.meanings(known.get(label, ""), vocabulary)
        if known.get(label, "").lower() in ("clear", "sun"):
            labelled = {"clear"}
        for meaning in sorted(before - after):
            yield f"it lost the {kind} {meaning!r}"
        allowed = before | labelled
        if allowed:
            for meaning in sorted(after - allowed):
                yield f"it changed the {kind} to {meaning!r}"


def _changed_counts(text: str, source: str) -> Iterator[str]:
    before, after = words.meanings(source, words.NUMBERS), words.meanings(text, words.NUMBERS)
    num_before = len(_ONE_VEHICLE.findall(source))
    # "A car and a van" may become "both vehicles", and the other way round.
    pair = {"2"} if num_before >= 2 else set()
    for number in sorted(before - after - pair):
        yield f"it lost the number {number}"
    for number in sorted(words.meanings(_OF_THE_ROAD.sub("", text), words.NUMBERS) - before - pair):
        yield f"it added the number {number}"
    if not _SEVERAL.search(source):
        most = max([num_before, 1, *(_COUNTS[count.lower()] for count in _COUNTED.findall(source))])
        if (num_after := len(_ONE_VEHICLE.findall(text))) > most:
            yield f"it tells of {num_after} vehicles instead of {most}"


def _new_findings(text: str, source: str, labels: Mapping[str, Any], linter: PromptLinter) -> Iterator[str]:
    """What the linter finds in the rewriting and not in the source."""
    plain = {name: str(value) for name, value in labels.items()}
    known = {(finding.rule, finding.excerpt.lower()) for finding in linter.lint(source, plain)}
    for finding in linter.lint(text, plain):
        if finding.rule not in _IGNORED_RULES and (finding.rule, finding.excerpt.lower()) not in known:
            yield f"{finding.message} ({finding.rule})"
