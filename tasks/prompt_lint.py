"""What is wrong with a prompt for a static traffic camera, before anything expensive starts.

Every finding names its rule, the place in the prompt and the remedy. A prompt is never changed here. The rules about
single words are in `lint_words` and the guardrail's lexicon; this module looks at the form (camera, scene, incident,
aftermath), at the length, and at what the labels say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from tasks import traffic_words as words
from tasks.lexicon import Lexicon, find_hits
from tasks.lint_words import LintWords
from tasks.prompt_tokens import MAX_TOKENS, TokenCounter

__all__ = ["RULES", "Finding", "PromptLinter", "Rule", "Severity"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One thing that the linter looks for."""

    id: str
    severity: Severity
    """`error`: the clip will be wrong or refused; `warning`: it will probably be worse than it could be."""
    about: str
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One place where a prompt breaks a rule."""

    rule: str
    severity: Severity
    excerpt: str
    """The words in question; the beginning of the prompt where something is missing."""
    message: str
    fix: str


RULES: Mapping[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule(id="camera-missing", severity="warning", about="no static camera is named",
             fix='Begin with "A static traffic CCTV camera captures ...".'),
        Rule(id="camera-late", severity="warning", about="the camera is not what the prompt begins with",
             fix="Move the camera to the beginning: camera, scene, incident, aftermath."),
        Rule(id="camera-moving", severity="error", about="the camera moves, or is no traffic camera",
             fix="Describe what a fixed camera sees; the adapter knows no other."),
        Rule(id="scene-cut", severity="error", about="more than one shot",
             fix="Describe one shot from one place."),
        Rule(id="scene-missing", severity="warning", about="no place is named",
             fix="Say where it is: intersection, highway, urban street ..."),
        Rule(id="incident-missing", severity="warning", about="nothing happens",
             fix="Say what moves and what happens: who brakes, turns, collides."),
        Rule(id="aftermath-missing", severity="warning", about="an incident without an aftermath",
             fix="End with what is seen afterwards: the vehicles come to rest and block traffic."),
        Rule(id="brand", severity="error", about="the name of a maker or company",
             fix="Name the kind of vehicle and its colour instead."),
        Rule(id="street-name", severity="error", about="the name of a real place",
             fix="Describe the road instead: an urban street, a multi-lane highway."),
        Rule(id="overlay", severity="warning", about="text or marks in the picture",
             fix="Leave them out; generated text is unreadable, and the captions have none."),
        Rule(id="style", severity="warning", about="a look that a traffic camera does not have",
             fix="Leave it out."),
        Rule(id="intent", severity="warning", about="a thought or a reason, which no camera sees",
             fix="Describe the movement alone."),
        Rule(id="appearance", severity="warning", about="what a person looks like",
             fix="Write pedestrian, driver or cyclist, and nothing more."),
        Rule(id="person-unexpected", severity="warning", about="a person whom the labels do not have",
             fix="Take the person out, or add the actor to the labels."),
        Rule(id="unsafe-words", severity="error", about="words of a guardrail category",
             fix="Describe vehicles and traffic; see docs/guardrails.md for what each category does."),
        Rule(id="label-contradiction", severity="error", about="the prompt says something else than a label",
             fix="Correct the prompt or the label."),
        Rule(id="label-missing", severity="warning", about="a labelled actor is not in the prompt",
             fix="Name it as the label does, or correct the label."),
        Rule(id="self-contradiction", severity="error", about="two statements that exclude each other",
             fix="Keep one of them."),
        Rule(id="not-plain", severity="warning", about="characters or marks that the text encoder does not know",
             fix="Write plain English sentences without markup."),
        Rule(id="too-short", severity="warning", about="too little to go by",
             fix="Write one to five sentences: camera, scene, incident, aftermath."),
        Rule(id="too-long", severity="warning", about="far longer than the captions that the adapter was trained on",
             fix="Shorten it; what stands last weighs least."),
        Rule(id="truncated", severity="error", about="longer than the text encoder reads",
             fix=f"Shorten it to {MAX_TOKENS} tokens; everything after them is dropped."),
    )
}  # fmt: skip

MIN_WORDS, MAX_WORDS = 8, 160
_MAX_EXCERPT = 60
_FIRST_CHARS = 2_000
"""Where a camera that comes late is looked for; the time of that search grows with the square of the length."""
_MARKUP = re.compile(r"\*\*|__|^\s*[#>-]\s|`|https?://|<[^>]+>|\[[^\]]*\]\(|[{}|~^]", re.MULTILINE)
_PLAIN_MARKS = frozenset("‘’“”–—…°éüöäçñ")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLinter:
    """Looks at prompts with one set of word lists and one token counter."""

    words: LintWords
    lexicon: Lexicon
    tokens: TokenCounter

    def lint(self, prompt: str, labels: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
        """Every finding of a prompt, errors first."""
        labels = labels or {}
        text = " ".join(prompt.split())
        found = [
            *_form(text, labels),
            *self._listed_words(text),
            *_persons(text, labels),
            *_contradictions(text, labels),
            *_length(text, self.tokens),
            *_plainness(prompt),
        ]
        return tuple(sorted(found, key=lambda finding: finding.severity != "error"))

    def _listed_words(self, text: str) -> Iterator[Finding]:
        lists = (
            ("brand", self.words.brands),
            ("street-name", self.words.streets),
            ("overlay", self.words.overlays),
            ("style", self.words.style),
            ("intent", self.words.intent),
            ("scene-cut", self.words.cuts),
        )
        for rule, pattern in lists:
            for match in pattern.finditer(text):
                yield _finding(rule, match[0])
        for hit in find_hits(text, self.lexicon):
            yield _finding("unsafe-words", hit.term, f"words of the category {hit.category}")


def _finding(rule: str, excerpt: str, message: str = "") -> Finding:
    known = RULES[rule]
    short = excerpt if len(excerpt) <= _MAX_EXCERPT else f"{excerpt[: _MAX_EXCERPT - 3]}..."
    return Finding(rule=rule, severity=known.severity, excerpt=short, message=message or known.about, fix=known.fix)


def _form(text: str, labels: Mapping[str, str]) -> Iterator[Finding]:
    """The four parts, each of them looked for where it belongs."""
    if moving := words.OTHER_CAMERA.search(text):
        yield _finding("camera-moving", moving[0])
    elif not words.STATIC_CAMERA.match(text):
        named = re.search(rf"\b(?:{words.STATIC_CAMERA.pattern})", text[:_FIRST_CHARS], re.IGNORECASE)
        late = named is not None and named.start() > 0
        yield _finding("camera-late", named[0]) if late and named else _finding("camera-missing", text)
    if not words.says(text, words.PLACE):
        yield _finding("scene-missing", text)
    if not words.says(text, words.EVENT):
        yield _finding("incident-missing", text)
    elif _has_incident(text, labels) and not _has_aftermath(text):
        yield _finding("aftermath-missing", text[-_MAX_EXCERPT:])


def _has_incident(text: str, labels: Mapping[str, str]) -> bool:
    label = labels.get("incident_type", labels.get("incident", "")).strip().lower()
    return label not in ("", "none", "normal") if label else words.says(text, words.COLLISION)


def _has_aftermath(text: str) -> bool:
    """Whether something is said of what follows, after the first words of an incident."""
    event = words.find_word(text, words.COLLISION)
    return words.says(text[event.end() :] if event else text, words.AFTERMATH)


def _persons(text: str, labels: Mapping[str, str]) -> Iterator[Finding]:
    if looks := words.find_word(text, words.APPEARANCE):
        yield _finding("appearance", looks[0])
    actors = " ".join(labels.get(name, "") for name in ("actors", "incident_type", "incident"))
    if actors.strip() and "actors" in labels and not words.says(actors.replace("_", " "), words.PERSONS):
        # A driver goes with every vehicle; a person on the road does not.
        for match in re.finditer(rf"\b(?:{words.PERSONS})\b", text, re.IGNORECASE):
            if not words.says(match[0], r"drivers?|motorists?|riders?|passengers?"):
                yield _finding("person-unexpected", match[0])


def _contradictions(text: str, labels: Mapping[str, str]) -> Iterator[Finding]:
    for name, vocabulary in (("time_of_day", words.TIME_OF_DAY), ("weather", words.WEATHER)):
        here = words.meanings(text, vocabulary)
        label = labels.get(name, "").replace("_", " ").lower()
        wanted = words.meanings(label, vocabulary) or {"clear": {"clear"}, "sun": {"clear"}}.get(label, set())
        if here and wanted and not here & wanted:
            excerpt = words.find_word(text, vocabulary[min(here)])
            yield _finding("label-contradiction", excerpt[0] if excerpt else text, f"label {name} is {label!r}")
    yield from _other_incident(text, labels)
    yield from _missing_actors(text, labels)
    yield from _within(text)


def _other_incident(text: str, labels: Mapping[str, str]) -> Iterator[Finding]:
    label = labels.get("incident_type", labels.get("incident", "")).strip().lower().replace("-", "_").replace(" ", "_")
    told = words.meanings(text, words.INCIDENTS)
    if label in words.INCIDENTS and told and label not in told and not _alike(label, told):
        excerpt = words.find_word(text, words.INCIDENTS[min(told)])
        yield _finding("label-contradiction", excerpt[0] if excerpt else text, f"label incident_type is {label!r}")
    elif label == "none" and (crash := words.find_word(text, words.COLLISION)):
        yield _finding("label-contradiction", crash[0], "label incident_type is 'none'")


def _alike(label: str, told: set[str]) -> bool:
    # A pile-up is made of rear-end collisions, and any collision may end in a roll-over.
    return (label == "pileup" and "rear_end" in told) or told == {"rollover"}


def _missing_actors(text: str, labels: Mapping[str, str]) -> Iterator[Finding]:
    label = labels.get("actors", "").replace("_", " ")
    told, wanted = words.coloured_vehicles(text), words.coloured_vehicles(label)
    for colour, vehicle in sorted(wanted - told):
        if vehicle == "vehicle" and any(colour == other for other, _ in told):
            continue  # a labelled car may well be told as a sedan
        colours = {other for other, same in told if same == vehicle}
        message = f"label actors has a {colour} {vehicle}"
        if colours and not words.says(text, words.COLOURS[colour]):
            yield _finding("label-contradiction", f"{min(colours)} {vehicle}", message)
        else:
            yield _finding("label-missing", f"{colour} {vehicle}", message)
    plain = words.meanings(label, words.VEHICLES) - {vehicle for _, vehicle in wanted}
    for vehicle in sorted(plain - words.meanings(text, words.VEHICLES)):
        yield _finding("label-missing", vehicle, f"label actors has a {vehicle}")


def _within(text: str) -> Iterator[Finding]:
    times, weathers = words.meanings(text, words.TIME_OF_DAY), words.meanings(text, words.WEATHER)
    for first, second, both in (
        ("day", "night", times),
        ("dawn", "dusk", times),
        ("clear", "rain", weathers),
        ("clear", "snow", weathers),
        ("clear", "fog", weathers),
        ("clear", "overcast", weathers),
    ):
        if {first, second} <= both:
            yield _finding("self-contradiction", text, f"it is both {first} and {second}")
    if "night" in times and (sun := words.find_word(text, r"sunny|sunlit|sunshine|blue\s+sky")):
        yield _finding("self-contradiction", sun[0], "sunshine at night")


def _length(text: str, tokens: TokenCounter) -> Iterator[Finding]:
    num_words, num_tokens = len(text.split()), tokens.count(text)
    if num_tokens > MAX_TOKENS:
        how = "" if tokens.exact else "about "
        yield _finding("truncated", text[-_MAX_EXCERPT:], f"{how}{num_tokens} tokens, {MAX_TOKENS} are read")
    elif num_words > MAX_WORDS:
        yield _finding("too-long", text[-_MAX_EXCERPT:], f"{num_words} words, the captions have up to {MAX_WORDS}")
    if num_words < MIN_WORDS:
        yield _finding("too-short", text, f"{num_words} words")


def _plainness(prompt: str) -> Iterator[Finding]:
    if markup := _MARKUP.search(prompt):
        yield _finding("not-plain", markup[0].strip() or markup[0], "markup, which the text encoder reads as text")
    foreign = "".join(dict.fromkeys(c for c in prompt if not c.isascii() and c.lower() not in _PLAIN_MARKS))
    if foreign:
        yield _finding("not-plain", foreign, "characters that the text encoder does not know")
