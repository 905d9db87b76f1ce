"""A job: one scenario with everything settled that determines its pixels."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.records import Prompts
from tasks.scenario import Scenario
from tasks.verdicts import Decision

__all__ = ["FetchedInput", "Job"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FetchedInput(_Part):
    """An input as it lies on this machine."""

    path: Path
    sha256: str


class Job(_Part):
    """A scenario whose input is here and whose texts are final and checked."""

    scenario: Scenario
    input: FetchedInput
    prompts: Prompts
    decision: Decision
    """On the texts, and on the input once that has been checked."""
    job_id: str
    """Hash of all that determines the published pixels."""
    redacted_input: Path | None = None
    """Frames to generate from instead of the input, because something in it had to be covered."""
    redacted_input_sha256: str | None = None
    """Of that file."""
