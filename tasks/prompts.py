"""What every prompt refiner takes and gives: a prompt and what is known about its scenario in, the final prompt out.

The refiners are in `template_refiner` (no model) and `model_refiner` (a vision-language model); `refiners` makes the
one that a configuration names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadScenario

__all__ = ["InputFile", "PassthroughRefiner", "PromptRefiner", "RefinedPrompt", "require_text"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputFile(_Part):
    """The scenario's input on this machine, for refiners that look at it."""

    path: Path
    sha256: str


class RefinedPrompt(_Part):
    """A prompt as it goes to the text encoder, and where it came from."""

    text: str
    source: str
    """The prompt as the manifest gives it."""
    refiner: str
    """What wrote `text`: `template`, `none`, `endpoint` or `transformers`."""
    requested: str | None = None
    """The refiner that was asked for, where another one had to step in; the reason is in `notes`."""
    model: str | None = None
    """Name and revision of the model that wrote `text`, where there is one."""
    template_sha256: str | None = None
    """Hash of the template's wording and vocabulary, or of the instructions that the model followed."""
    changed: bool
    """Whether `text` differs from `source` in any character."""
    notes: tuple[str, ...] = ()
    """What was not done and why, for the record."""


class PromptRefiner(Protocol):
    """Anything that turns a prompt and its labels into the prompt to generate from."""

    name: str

    def refine(self, prompt: str, labels: Mapping[str, Any], frame: InputFile | None = None) -> RefinedPrompt:
        """Refine one prompt; deterministic for equal arguments."""
        ...

    def close(self) -> None:
        """Let go of whatever was started; refining again starts it again."""
        ...


class PassthroughRefiner:
    """Leaves every prompt as it is."""

    name = "none"

    def refine(self, prompt: str, labels: Mapping[str, Any], frame: InputFile | None = None) -> RefinedPrompt:
        """The prompt itself, to the character."""
        require_text(prompt)
        return RefinedPrompt(text=prompt, source=prompt, refiner=self.name, changed=False)

    def close(self) -> None:
        """Nothing was started."""


def require_text(prompt: str) -> None:
    """Refuse a prompt without a single visible character.

    Raises:
        BadScenario: it is empty.
    """
    if not prompt.strip():
        raise BadScenario("the prompt is empty", got=repr(prompt[:40]), fix="Write a prompt.")
