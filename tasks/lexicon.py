"""The text check that needs no weights: category word lists, matched on folded text.

Folding undoes what hides a word from a list and changes nothing that a reader would see: compatibility forms,
accents, look-alike letters, invisible characters, letter spacing, digits for letters. The lists are English;
letters of another script that survive folding are flagged as `unreadable_text`, because no list here covers them.

Folded text keeps, for each of its characters, the index of the character it came from, so that a hit points into
the text as it was given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from cosmos_core.errors import BadConfig, BadScenario
from cosmos_core.hashing import sha256_json
from tasks.verdicts import Stage, Verdict, run_check

__all__ = ["CHECK", "UNREADABLE", "Hit", "Lexicon", "check_text", "find_hits", "load_lexicon"]

CHECK = "text.lexicon"
UNREADABLE = "unreadable_text"
_MAX_CHARACTERS = 20_000  # T5 reads 512 tokens, about 2,500 characters; far longer text is an attack on the matcher
_MAX_HITS = 50

# Letters that look like Latin ones without decomposing to them: each word is the letter and what it looks like.
_LOOKALIKE_PAIRS = """
    аa вb гr еe зz иu йu кk мm нh оo пn рp сc тt уy хx ьb ѕs іi јj ԁd ԛq ԝw һh ӏl ґr
    АA ВB ЕE ЗZ КK МM НH ОO РP СC ТT УY ХX ЬB ЅS ІI ЈJ ԚQ ԜW ҺH ӀI
    αa βb γy εe ηn ιi κk μu νv οo πn ρp σo ςs τt υu χx ωw ζz
    ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX
    ıi ȷj łl ŁL øo ØO đd ĐD ħh ɑa ɡg ɩi ʟl ᴀa ʙb ᴄc ᴅd ᴇe ꜰf ɢg ʜh ɪi ᴊj ᴋk ᴍm ɴn ᴏo ᴘp ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz
    ßss æae ÆAE œoe ŒOE þth ðd
"""
_LOOKALIKES: dict[str, str] = {pair[0]: pair[1:] for pair in _LOOKALIKE_PAIRS.split()}
# Invisible although Unicode calls them letters or symbols: Hangul fillers, the blank Braille cell.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800")
# Negative circled, negative squared and regional indicator letters: alphabets of 26 that NFKD leaves alone.
_LETTER_BLOCKS = (0x1F150, 0x1F170, 0x1F1E6)

_SEPARATORS = r"[\s.\-*|/,]{1,3}"
_LETTER_SPACED = re.compile(rf"(?<![A-Za-z0-9])[A-Za-z](?:{_SEPARATORS}[A-Za-z]){{2,}}(?![A-Za-z0-9])")
_INNER_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])")
_DIGIT_IN_WORD = re.compile(r"[A-Za-z][013457@$!]|[013457@$][A-Za-z]")
_DIGIT_LETTERS = (str.maketrans("013457@$!", "oieastasi"), str.maketrans("013457@$!", "oleastasi"))


class _Category(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    terms: tuple[str, ...] = ()
    """Words and phrases; `*` stands for any ending."""
    patterns: tuple[str, ...] = ()
    """Regular expressions; `<name>` inserts a macro."""
    allow: tuple[str, ...] = ()
    """Phrases in which this category's words are harmless; each excuses the words inside it and no others."""
    case_sensitive: bool = False


class _LexiconFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    version: int = Field(ge=1)
    language: str
    macros: dict[str, str] = Field(default_factory=dict)
    categories: dict[str, _Category] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    category: str
    found: re.Pattern[str]
    excused: re.Pattern[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lexicon:
    """Compiled category lists."""

    id: str
    version: int
    sha256: str
    """Hash of the lists' content."""
    rules: tuple[_Rule, ...]
    """Worst category first, as in the file."""

    @property
    def categories(self) -> tuple[str, ...]:
        """Every category that a hit can carry, worst first."""
        return (*(rule.category for rule in self.rules), UNREADABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One word or phrase of one category."""

    category: str
    term: str
    """The text as given between `start` and `end`."""
    start: int
    """Index of the first character in the text as given."""
    end: int
    """Index after the last character."""


@dataclass(frozen=True, slots=True)
class _Folded:
    text: str
    origin: list[int]

    def without(self, spans: list[tuple[int, int]]) -> _Folded:
        """The text with some spans cut out."""
        kept = sorted(set(range(len(self.text))) - {i for start, end in spans for i in range(start, end)})
        return _Folded("".join(self.text[i] for i in kept), [self.origin[i] for i in kept])


def load_lexicon(path: Path | str) -> Lexicon:
    """Read and compile a lexicon file.

    Raises:
        BadConfig: the file is missing, is not a lexicon, or holds a wrong regular expression.
    """
    path = Path(path)
    try:
        content = _LexiconFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        rules = tuple(_compile(name, entry, content.macros) for name, entry in content.categories.items())
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError, re.error, KeyError) as problem:
        raise BadConfig(
            f"lexicon {path} cannot be used",
            got=f"{type(problem).__name__}: {problem}",
            expected="id, version, language and categories of terms and patterns",
            fix="See docs/guardrails.md.",
        ) from None
    return Lexicon(
        id=content.id, version=content.version, sha256=sha256_json(content.model_dump(mode="json")), rules=rules
    )


def _compile(name: str, entry: _Category, macros: dict[str, str]) -> _Rule:
    flags = re.ASCII if entry.case_sensitive else re.ASCII | re.IGNORECASE

    def union(terms: tuple[str, ...], patterns: tuple[str, ...]) -> re.Pattern[str] | None:
        parts = [_term(term) for term in terms]
        parts += [re.sub(r"(?<!\?P)(?<!\?)<(\w+)>", lambda m: f"(?:{macros[m[1]]})", pattern) for pattern in patterns]
        return re.compile(rf"\b(?:{'|'.join(parts)})(?!\w)", flags) if parts else None

    found = union(entry.terms, entry.patterns)
    if found is None:
        raise re.error(f"category {name} is empty")
    return _Rule(category=name, found=found, excused=union(entry.allow, ()))


def _term(term: str) -> str:
    # Between the words of a phrase any short run of spaces, punctuation or Markdown may stand.
    return r"\W{1,5}".join(re.escape(word).replace(r"\*", r"\w*") for word in term.split())


def check_text(text: str, lexicon: Lexicon, *, stage: Stage = "prompt", optional: bool = False) -> Verdict:
    """Look for every category of a lexicon in a text.

    Args:
        optional: the text may be absent, as a negative prompt may; otherwise an empty text is an error.
    """
    verdict = run_check(stage, CHECK, lambda: _look(text, lexicon, stage=stage, optional=optional), backend="lexicon")
    return verdict.model_copy(update={"model": lexicon.id, "revision": f"{lexicon.version}-{lexicon.sha256[:12]}"})


def _look(text: str, lexicon: Lexicon, *, stage: Stage, optional: bool) -> Verdict:
    if optional and not text:
        return Verdict(stage=stage, check=CHECK, status="pass", backend="lexicon", evidence={"absent": True})
    if not any(_fold_character(character, "").strip() for character in text):
        raise BadScenario("the text is empty", got=repr(text[:40]), fix="Write a prompt.")
    if len(text) > _MAX_CHARACTERS:
        raise BadScenario("the text is too long to check", got=len(text), expected=f"{_MAX_CHARACTERS} characters")
    hits = find_hits(text, lexicon)
    categories = list(dict.fromkeys(hit.category for hit in hits))
    shown: list[JsonValue] = [
        {"category": hit.category, "term": hit.term, "start": hit.start, "end": hit.end} for hit in hits[:_MAX_HITS]
    ]
    return Verdict(
        stage=stage,
        check=CHECK,
        status="flag" if hits else "pass",
        category=categories[0] if categories else None,
        other_categories=tuple(categories[1:]),
        backend="lexicon",
        evidence={"num_hits": len(hits), "hits": shown} if hits else {},
    )


def find_hits(text: str, lexicon: Lexicon) -> list[Hit]:
    """Every hit in a text: worst category first, then by position, each place once a category."""
    found: set[tuple[int, int, int]] = set()
    for folded in _variants(text):
        for rank, rule in enumerate(lexicon.rules):
            excused = [match.span() for match in rule.excused.finditer(folded.text)] if rule.excused else []
            for match in rule.found.finditer(folded.text):
                start, end = match.span()
                if not any(first <= start and end <= last for first, last in excused):
                    found.add((rank, folded.origin[start], folded.origin[end - 1] + 1))
    categories = lexicon.categories
    found |= {(len(lexicon.rules), start, end) for start, end in _unreadable(text)}
    return [
        Hit(category=categories[rank], term=text[start:end], start=start, end=end)
        for rank, start, end in _outermost(sorted(found))
    ]


def _outermost(found: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    # Two foldings can see the same word a character wider or narrower: keep one a place.
    last = (-1, 0, 0)
    for hit in found:
        if hit[0] != last[0] or hit[1] >= last[2]:
            yield hit
            last = hit


def _variants(text: str) -> Iterator[_Folded]:
    """The readings of a text in which a word may show up, the plain one first, repetitions left out."""
    joined = _fold(text, "")
    readings = [joined]
    if not text.isascii():
        spaced = _fold(text, " ")
        if spaced.text != joined.text:
            readings.append(spaced)
    yield from readings
    for reading in readings:
        yield from _respelled(reading)


def _respelled(reading: _Folded) -> Iterator[_Folded]:
    text = reading.text
    if _INNER_HYPHEN.search(text):
        yield reading.without([match.span() for match in _INNER_HYPHEN.finditer(text)])
    runs = [match.span() for match in _LETTER_SPACED.finditer(text)]
    if runs:
        for skip in (0, 2):  # "a b l o o d": the first letter may be a word of its own
            gaps = [(i, i + 1) for start, end in runs for i in range(start + skip, end) if not text[i].isalnum()]
            yield reading.without(gaps)
    if _DIGIT_IN_WORD.search(text):
        for letters in _DIGIT_LETTERS:
            yield _Folded(" ".join(_with_letters(word, letters) for word in text.split(" ")), reading.origin)


def _with_letters(word: str, letters: dict[int, int]) -> str:
    # A number alone stays a number.
    return word.translate(letters) if any(character.isalpha() for character in word) else word


def _fold(text: str, invisible: str) -> _Folded:
    if text.isascii() and text.isprintable():
        return _Folded(text.replace("_", " "), list(range(len(text))))
    folded: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        for piece in _fold_character(character, invisible):
            folded.append(piece)
            origin.append(index)
    return _Folded("".join(folded), origin)


@lru_cache(maxsize=4096)
def _fold_character(character: str, invisible: str) -> str:
    code = ord(character)
    for first in _LETTER_BLOCKS:
        if first <= code < first + 26:
            return chr(ord("A") + code - first)
    if character in _INVISIBLE:
        return invisible
    pieces = []
    for piece in unicodedata.normalize("NFKD", character):
        kind = unicodedata.category(piece)
        if piece.isspace() or piece == "_" or kind.startswith("Z"):
            pieces.append(" ")
        elif kind.startswith("C"):  # controls and formats: zero width, soft hyphen, direction marks
            pieces.append(invisible)
        elif kind == "Pd":
            pieces.append("-")
        elif not kind.startswith("M"):
            pieces.append(_LOOKALIKES.get(piece, piece))
    return "".join(pieces)


def _unreadable(text: str) -> Iterator[tuple[int, int]]:
    """Spans of letters that no folding turned into Latin ones."""
    if text.isascii():
        return
    start: int | None = None
    for index, character in enumerate(text):
        foreign = any(piece.isalpha() and not piece.isascii() for piece in _fold_character(character, ""))
        if foreign and start is None:
            start = index
        elif not foreign and start is not None:
            yield start, index
            start = None
    if start is not None:
        yield start, len(text)
