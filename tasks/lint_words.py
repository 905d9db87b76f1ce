"""The word lists of the linter, from a YAML file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cosmos_core.errors import BadConfig
from cosmos_core.hashing import sha256_json

__all__ = ["LintWords", "load_lint_words"]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    version: int = Field(ge=1)
    brands: tuple[str, ...] = Field(min_length=1)
    """Names in any case."""
    brands_as_spelled: tuple[str, ...] = Field(min_length=1)
    """Names that are common words in small letters."""
    street_endings: tuple[str, ...] = Field(min_length=1)
    """What follows a proper name in the name of a street."""
    style: tuple[str, ...] = Field(min_length=1)
    cuts: tuple[str, ...] = Field(min_length=1)
    overlays: tuple[str, ...] = Field(min_length=1)
    intent: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LintWords:
    """Compiled lists."""

    id: str
    version: int
    sha256: str
    """Hash of the lists' content."""
    brands: re.Pattern[str]
    streets: re.Pattern[str]
    style: re.Pattern[str]
    cuts: re.Pattern[str]
    overlays: re.Pattern[str]
    intent: re.Pattern[str]


def load_lint_words(path: Path) -> LintWords:
    """Read and compile a word list file.

    Raises:
        BadConfig: the file is missing, is not YAML, or has a wrong or unknown field.
    """
    try:
        content = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise BadConfig(
            f"word lists {path} cannot be used",
            got=" ".join(str(error).split())[:300],
            expected=", ".join(_File.model_fields),
            fix="See configs/prompts/its-lint.yaml.",
        ) from None
    return LintWords(
        id=content.id,
        version=content.version,
        sha256=sha256_json(content.model_dump(mode="json")),
        brands=re.compile(f"(?i:{_union(content.brands)})|{_union(content.brands_as_spelled)}"),
        streets=_streets(content.street_endings),
        style=re.compile(_union(content.style), re.IGNORECASE),
        cuts=re.compile(_union(content.cuts), re.IGNORECASE),
        overlays=re.compile(rf"{_union(content.overlays)}|\b\d{{1,2}}:\d{{2}}:\d{{2}}\b", re.IGNORECASE),
        intent=re.compile(_union(content.intent), re.IGNORECASE),
    )


def _union(terms: tuple[str, ...]) -> str:
    longest_first = sorted(terms, key=len, reverse=True)
    words = (r"\s+".join(re.escape(word) for word in term.split()) for term in longest_first)
    return rf"(?<![\w-])(?:{'|'.join(words)})(?:'s)?(?![\w-])"


def _streets(endings: tuple[str, ...]) -> re.Pattern[str]:
    ending = "|".join(map(re.escape, sorted(endings, key=len, reverse=True)))
    plain = (
        "(?:The|This|An?|Urban|City|Busy|Rural|Narrow|Wide|Wet|Icy|Snowy|Rainy|Empty|Open|Residential|Suburban|Side)"
    )
    proper = rf"(?!{plain}\b)(?:[A-Z][a-z]+|\d{{1,3}}(?:st|nd|rd|th))"
    # Capitals alone make the name: "Main Street" is one, "A busy street" and "an urban street" are not.
    return re.compile(
        rf"\b(?:{proper}\s+){{1,3}}(?:{ending})\b\.?|\b(?:Route|Interstate|Highway|US|SR|I|M|A)[\s-]\d{{1,3}}\b|\bI-\d{{1,3}}\b"
        r"|\b[AM]\d{1,3}\b|\b(?:in|near|at|of|outside|from|to)\s+(?:downtown\s+)?[A-Z][a-z]{2,}\b"
    )
