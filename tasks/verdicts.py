"""What a check found and what was decided on it: the two records that every guardrail stage speaks in.

A check answers with one of four words, never with a bool: `pass`, `flag`, `unavailable` (it could not run here) or
`error` (it ran and failed). Only `tasks.policy` turns verdicts into an action.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from cosmos_core.errors import BadModel

__all__ = [
    "STAGES",
    "Action",
    "CheckUnavailable",
    "Decision",
    "Stage",
    "Status",
    "Verdict",
    "run_check",
    "unavailable",
]

Stage = Literal["prompt", "refined_prompt", "negative_prompt", "input", "video"]
Status = Literal["pass", "flag", "unavailable", "error"]
Action = Literal["allow", "redact", "review", "quarantine", "block"]

STAGES: tuple[Stage, ...] = get_args(Stage)


class CheckUnavailable(BadModel):
    """A check cannot run here: its library, weights or endpoint is not installed or not configured."""


class Verdict(BaseModel):
    """The answer of one check on one thing."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    stage: Stage
    """What was looked at."""
    check: str
    """Name of the check, such as `text.lexicon`."""
    status: Status
    """`pass` and `flag` mean that the check ran to its end."""
    category: str | None = None
    """The worst category of a flag; None with a flag means that the check named none."""
    other_categories: tuple[str, ...] = ()
    """Further categories of the same flag, worst first. The policy weighs every one of them."""
    score: float | None = None
    """Confidence of the flag in [0, 1] where the check has one."""
    evidence: dict[str, JsonValue] = Field(default_factory=dict)
    """What a person needs to follow the verdict; JSON-ready."""
    backend: str
    """Kind of implementation, such as `lexicon` or `opencv-haar`."""
    model: str | None = None
    """Name of the model, word list or cascade."""
    revision: str | None = None
    """Version or hash of that model."""
    duration_s: float = Field(default=0.0, ge=0)
    """Wall-clock time of the check."""

    @model_validator(mode="after")
    def _only_a_flag_has_categories(self) -> Verdict:
        # A category on a pass would be a finding that nobody acts on.
        if self.status != "flag" and (self.category is not None or self.other_categories):
            raise ValueError(f"a verdict of status {self.status} carries no category, got {self.category!r}")
        if self.category is None and self.other_categories:
            raise ValueError("other_categories without a category")
        return self

    @property
    def ran(self) -> bool:
        """Whether the check looked at the whole thing and answered."""
        return self.status in ("pass", "flag")

    @property
    def name(self) -> str:
        """Stage and check in one word, `prompt/text.lexicon`: the key used in decisions."""
        return f"{self.stage}/{self.check}"

    @property
    def categories(self) -> tuple[str | None, ...]:
        """Every category of a flag, worst first; `(None,)` for a flag that names none, empty otherwise."""
        return (self.category, *self.other_categories) if self.status == "flag" else ()


class Decision(BaseModel):
    """What happens to a scenario, and why. Built by `tasks.policy.decide` only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    action: Action
    """The gravest action that any verdict asks for."""
    reasons: tuple[str, ...]
    """One clause a finding or gap, gravest first; empty only when everything asked for ran and passed."""
    enforced: bool = True
    """False: the policy switches the guardrails off, and the reasons say so."""
    policy_id: str
    policy_version: int
    policy_sha256: str
    """Hash of the policy as applied, overrides included."""
    requested_checks: tuple[str, ...]
    """`stage/check` of everything the policy asks for in the decided stages."""
    effective_checks: tuple[str, ...]
    """`stage/check` of what really ran to its end. The difference to the request is the gap in coverage."""
    verdicts: tuple[Verdict, ...]

    @property
    def publishes(self) -> bool:
        """Whether the clip may leave: everything passed, or what was found has been redacted."""
        return self.action in ("allow", "redact")

    @property
    def findings(self) -> tuple[str, ...]:
        """The reasons without those that only tell of an optional check that did not run, if any others are left."""
        gaps = tuple(f"{name} " for name in self.missing_checks)
        told = tuple(why for why in self.reasons if why.endswith("(required)") or not why.startswith(gaps))
        return told or self.reasons

    @property
    def missing_checks(self) -> tuple[str, ...]:
        """Requested checks that did not run."""
        return tuple(name for name in self.requested_checks if name not in self.effective_checks)


def unavailable(stage: Stage, check: str, reason: str, *, backend: str = "none") -> Verdict:
    """The verdict of a check that has nothing to run on."""
    return Verdict(stage=stage, check=check, status="unavailable", backend=backend, evidence={"reason": reason})


def run_check(stage: Stage, check: str, call: Callable[[], Verdict], *, backend: str) -> Verdict:
    """Run one check so that nothing it does can read as a pass.

    An exception becomes `error` with its class and message, `CheckUnavailable` becomes `unavailable`; an answer
    that is no verdict, or one about another stage or check, becomes `error`.
    """
    started = time.perf_counter()
    evidence: dict[str, JsonValue]
    try:
        verdict = call()
    except CheckUnavailable as problem:
        status: Status = "unavailable"
        evidence = {"reason": str(problem)}
    except Exception as problem:  # the verdict is the handling: the policy quarantines on it
        status = "error"
        evidence = {"exception": type(problem).__name__, "message": str(problem)}
    else:
        if isinstance(verdict, Verdict) and (verdict.stage, verdict.check) == (stage, check):
            return verdict.model_copy(update={"duration_s": time.perf_counter() - started})
        status = "error"
        evidence = {"message": f"the check gave no verdict on {stage}/{check}", "got": repr(verdict)[:200]}
    return Verdict(
        stage=stage,
        check=check,
        status=status,
        evidence=evidence,
        backend=backend,
        duration_s=time.perf_counter() - started,
    )
