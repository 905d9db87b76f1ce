"""What a refining model is told: a versioned, hashed file, and the question that it makes of a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cosmos_core.errors import BadConfig
from cosmos_core.hashing import sha256_json

__all__ = ["KNOWN_LABELS", "Answer", "Question", "RefinerInstructions", "load_instructions"]

KNOWN_LABELS = (
    "camera", "road_layout", "time_of_day", "weather", "traffic", "incident_type", "incident", "actors", "aftermath",
)  # fmt: skip
"""Labels that a model gets to see; a manifest may hold others that are nobody's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to one question."""

    text: str
    finish_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question with all that was said before it."""

    system: str
    user: str
    said: tuple[tuple[str, str], ...] = ()
    """Earlier answers, each with what was wrong with it."""

    def corrected(self, answer: str, correction: str) -> Question:
        """The same question, asked again."""
        return Question(system=self.system, user=self.user, said=(*self.said, (answer, correction)))


class RefinerInstructions(BaseModel):
    """The instructions file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    version: int = Field(ge=1)
    min_words: int = Field(ge=1)
    max_words: int = Field(le=300)
    """Of the refined prompt."""
    system: str = Field(min_length=1)
    """May use {min_words} and {max_words}; braces of its own are doubled."""
    user: str
    """With {facts}, the caption and its labels as JSON."""
    correction: str
    """With {problems}, what was wrong with the answer before."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.min_words >= self.max_words:
            raise ValueError("min_words below max_words")
        for field, name in (("user", "{facts}"), ("correction", "{problems}")):
            if name not in getattr(self, field):
                raise ValueError(f"{field} with {name} in it")
        try:
            self.question("x", {}), self.correct(["x"])
        except (KeyError, IndexError, ValueError):
            raise ValueError("no other names in braces; double the braces that are meant as such") from None
        return self

    @property
    def sha256(self) -> str:
        """Hash of all that it says."""
        return sha256_json(self.model_dump(mode="json"))

    def question(self, prompt: str, labels: Mapping[str, Any]) -> Question:
        """The question for one prompt."""
        known = {name: str(labels[name]) for name in KNOWN_LABELS if labels.get(name) not in (None, "")}
        facts = json.dumps({"caption": " ".join(prompt.split()), "labels": known}, ensure_ascii=False, indent=1)
        system = self.system.format(min_words=self.min_words, max_words=self.max_words)
        return Question(system=system.strip(), user=self.user.format(facts=facts).strip())

    def correct(self, problems: Sequence[str]) -> str:
        """What to say to an answer that cannot be used."""
        return self.correction.format(problems="; ".join(problems)).strip()


def load_instructions(path: Path) -> RefinerInstructions:
    """Read an instructions file.

    Raises:
        BadConfig: the file is missing, is not YAML, or lacks a part.
    """
    try:
        return RefinerInstructions.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise BadConfig(
            f"refiner instructions {path} cannot be used",
            got=" ".join(str(error).split())[:300],
            expected=", ".join(RefinerInstructions.model_fields),
            fix="See configs/prompts/its-refiner.yaml.",
        ) from None
