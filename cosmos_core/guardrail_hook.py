"""Where a guardrail plugs into the drop-in command: the core knows the shape of one and brings none.

An installed package declares its guardrail under the entry point group `crossroads.guardrails`; the value is a class
that is made without arguments. Every declared guardrail must agree before a video is published. Nothing here ever
takes silence for consent: no guardrail, one that cannot be loaded, or one that raises publishes nothing. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol, get_args

import numpy as np

from cosmos_core.errors import BadConfig

__all__ = ["GROUP", "DisabledGuardrail", "Guardrail", "GuardrailDecision", "Outcome", "combine", "find_guardrails"]

GROUP = "crossroads.guardrails"
"""Entry point group in which guardrails are declared."""

Outcome = Literal["publish", "quarantine", "block"]
_GRAVITY: dict[Outcome, int] = {outcome: rank for rank, outcome in enumerate(get_args(Outcome))}


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailDecision:
    """What may happen to a prompt or to a clip."""

    outcome: Outcome
    """`quarantine` keeps a clip apart until a person has seen it; `block` lets nothing be generated or kept."""
    reasons: tuple[str, ...] = ()
    """One clause a finding or gap, gravest first."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready account of what was checked, for the video's record."""

    @property
    def publishes(self) -> bool:
        return self.outcome == "publish"


class Guardrail(Protocol):
    """Anything that decides on prompts and on clips."""

    name: str

    def check_prompt(self, prompt: str, *, negative_prompt: str) -> GuardrailDecision:
        """Decide on the texts of one video, before anything is generated."""
        ...

    def check_frames(self, frames_THWC: np.ndarray) -> tuple[np.ndarray, GuardrailDecision]:
        """Decide on a clip, uint8 [T, H, W, 3]; returns it as it may be shown, redacted where that was needed."""
        ...


class DisabledGuardrail:
    """Publishes everything, and says so in every record: what `--disable_guardrail` stands for."""

    name = "disabled"

    def check_prompt(self, prompt: str, *, negative_prompt: str) -> GuardrailDecision:
        """Nothing is looked at."""
        return GuardrailDecision(outcome="publish", record={"disabled": True})

    def check_frames(self, frames_THWC: np.ndarray) -> tuple[np.ndarray, GuardrailDecision]:
        """Nothing is looked at; the frames come back as they are."""
        return frames_THWC, GuardrailDecision(outcome="publish", record={"disabled": True})


def combine(decisions: Sequence[GuardrailDecision]) -> GuardrailDecision:
    """The gravest outcome, with all reasons, those of the gravest decision first, and all records in a list.

    Raises:
        ValueError: there is no decision, which is not consent.
    """
    gravest = max((decision.outcome for decision in decisions), key=_GRAVITY.__getitem__)
    ordered = sorted(decisions, key=lambda decision: -_GRAVITY[decision.outcome])
    records = [dict(decision.record) for decision in decisions]
    reasons = dict.fromkeys(reason for decision in ordered for reason in decision.reasons)
    return GuardrailDecision(outcome=gravest, reasons=tuple(reasons), record={"checks": records})


def find_guardrails() -> tuple[Guardrail, ...]:
    """Every installed guardrail, at least one.

    Raises:
        BadConfig: none is installed, or one cannot be loaded.
    """
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    if not found:
        raise BadConfig(
            "no guardrail is installed",
            expected=f"an entry point in the group {GROUP}",
            fix="Install Crossroads again (pip install -e .), or decide against it with --disable_guardrail.",
        )
    guardrails: list[Guardrail] = []
    for entry in found:
        try:
            guardrails.append(entry.load()())
        except Exception as error:
            # Foreign code; whatever it raises, going on without it would publish unchecked.
            raise BadConfig(
                f"guardrail {entry.name} cannot be loaded",
                got=f"{type(error).__name__}: {error}",
                fix="Repair its installation, or decide against it with --disable_guardrail.",
            ) from error
    return tuple(guardrails)
