"""The guardrail policy: a YAML file that says which checks must run and what each finding leads to.

The combined action is the gravest of allow < redact < review < quarantine < block. What is missing, failed or
unknown is never `allow`: absence of a finding counts only when the check that would have made it ran. The one way
around that is a policy that says `enforced: false` under the name `off...`, which every decision then carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cosmos_core.errors import BadConfig
from cosmos_core.hashing import sha256_json
from tasks.frame_sanity import SanityOptions
from tasks.frame_scores import ContentOptions
from tasks.redaction import RedactionOptions
from tasks.verdicts import Action, Decision, Stage, Verdict

__all__ = ["HARD_BLOCKED", "CategoryRule", "Policy", "StageChecks", "decide", "gravest", "load_policy", "may_generate"]

HARD_BLOCKED = frozenset({"sexual", "child_abuse", "hate"})
"""Categories that no policy file and no override may relax."""

_REDACTABLE = frozenset({"face_redacted", "plate_redacted"})
# The categories whose check has itself made the redaction; `redact` on any other would publish it untouched.

_GRAVITY: dict[Action, int] = {action: rank for rank, action in enumerate(get_args(Action))}

_HARD_MAX_SCORE, _HARD_MAX_CONSECUTIVE = 0.5, 2
# A threshold that no frame can reach would relax a hard-blocked category as surely as `allow` would.

HoldingAction = Literal["review", "quarantine", "block"]


class CategoryRule(BaseModel):
    """What a finding of one category leads to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Action
    locked: bool = False
    """A locked category can be made stricter by an override, never milder."""


class StageChecks(BaseModel):
    """The checks of one stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: tuple[str, ...] = ()
    """Without these nothing is published."""
    optional: tuple[str, ...] = ()
    """Asked for as well; a gap is handled by `on_unavailable_optional`."""

    @property
    def requested(self) -> tuple[str, ...]:
        """Required and optional checks together."""
        return self.required + self.optional

    @model_validator(mode="after")
    def _named_once(self) -> StageChecks:
        if len(set(self.requested)) != len(self.requested):
            raise ValueError(f"a check is named twice in {list(self.requested)}")
        return self


class Policy(BaseModel):
    """One guardrail policy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    version: int = Field(ge=1)
    basis: str = Field(min_length=1)
    """Why this policy is appropriate for its use: the sentence that an operator signs."""
    enforced: bool = True
    """False switches every check off. Such a policy names no checks, and its id begins with `off`."""
    stages: dict[Stage, StageChecks]
    """Checks by stage. The prompt, the refined prompt and the video need at least one required check each."""
    categories: dict[str, CategoryRule]
    unknown_category: HoldingAction = "review"
    """For a finding whose category this policy does not name."""
    on_error: HoldingAction = "quarantine"
    """For a check that raised or answered nonsense, required or not."""
    on_unavailable_required: HoldingAction = "quarantine"
    """For a required check that could not run or left no verdict."""
    on_unavailable_optional: Literal["mark", "review", "quarantine", "block"] = "mark"
    """For an optional one; `mark` publishes with the gap recorded."""
    redaction: RedactionOptions = RedactionOptions()
    """How faces are found and covered."""
    sanity: SanityOptions = SanityOptions()
    """Limits of the decode sanity check."""
    content: ContentOptions = ContentOptions()
    """Which frames are judged, and for how many in a row a score must hold."""

    @model_validator(mode="after")
    def _off_says_so(self) -> Policy:
        if self.enforced == self.id.startswith("off"):
            raise ValueError("a policy is called off... if and only if it says `enforced: false`")
        if not self.enforced and (self.stages or self.categories):
            raise ValueError("a policy that is not enforced names no stages and no categories: it would look like one")
        return self

    @model_validator(mode="after")
    def _cannot_be_hollow(self) -> Policy:
        if not self.enforced:
            return self
        for stage in ("prompt", "refined_prompt", "video"):
            if stage not in self.stages or not self.stages[stage].required:
                raise ValueError(f"stage {stage} has no required check; name at least one")
        for category in HARD_BLOCKED:
            if self.categories.get(category) != CategoryRule(action="block", locked=True):
                raise ValueError(f"category {category} must be {{action: block, locked: true}}")
        for category, rule in self.categories.items():
            if rule.action == "redact" and category not in _REDACTABLE:
                raise ValueError(
                    f"nothing redacts {category}; expected allow, review, quarantine or block "
                    f"(redact only for {', '.join(sorted(_REDACTABLE))})"
                )
        for category in HARD_BLOCKED:
            rule_of_frames = self.content.rule(category)
            if rule_of_frames.min_score > _HARD_MAX_SCORE or rule_of_frames.min_consecutive > _HARD_MAX_CONSECUTIVE:
                raise ValueError(
                    f"the threshold of {category} may be at most {_HARD_MAX_SCORE} "
                    f"over {_HARD_MAX_CONSECUTIVE} frames in a row"
                )
        return self

    @property
    def sha256(self) -> str:
        """Hash of the whole policy as applied: a change of any value changes it, a change of layout does not."""
        return sha256_json(self.model_dump(mode="json"))

    def with_overrides(self, actions: Mapping[str, str]) -> Policy:
        """The same policy with other actions for some categories.

        Raises:
            BadConfig: an unknown action, or a locked category made milder.
        """
        categories = dict(self.categories)
        for category, action in actions.items():
            if action not in _GRAVITY:
                raise BadConfig(f"override of category {category}", got=action, expected=" | ".join(_GRAVITY))
            rule = categories.get(category, CategoryRule(action=self.unknown_category))
            if rule.locked and _GRAVITY[action] < _GRAVITY[rule.action]:
                raise BadConfig(
                    f"category {category} is locked by policy {self.id}",
                    got=action,
                    expected=f"{rule.action} or stricter",
                    fix="Remove the override.",
                )
            categories[category] = rule.model_copy(update={"action": action})
        return _validated({**self.model_dump(), "categories": {k: v.model_dump() for k, v in categories.items()}})


def load_policy(path: Path | str, *, overrides: Mapping[str, str] | None = None) -> Policy:
    """Read a policy file.

    Raises:
        BadConfig: the file is missing, is not YAML, or is not a policy.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise BadConfig("guardrail policy cannot be read", got=f"{path} ({problem})", fix="Give a YAML file.") from None
    policy = _validated(data, path)
    return policy.with_overrides(overrides) if overrides else policy


def _validated(data: Any, path: Path | None = None) -> Policy:
    try:
        return Policy.model_validate(data)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the policy"
        raise BadConfig(
            f"guardrail policy{f' {path}' if path else ''} is wrong at {where}",
            got=repr(first["input"])[:120],
            expected=first["msg"],
            fix="See docs/guardrails.md.",
        ) from None


def gravest(actions: Iterable[Action]) -> Action:
    """The gravest of some actions; `allow` for none."""
    return max(actions, key=_GRAVITY.__getitem__, default="allow")


def decide(policy: Policy, verdicts: Sequence[Verdict], *, stages: Iterable[Stage] | None = None) -> Decision:
    """Combine verdicts into one decision.

    Args:
        stages: the stages that must be covered by now; every stage of the policy if None. Before generation that
            is the prompt stages alone. A verdict of any other stage still counts.

    A flag leads to the gravest action of its categories. A requested check without a verdict counts as unavailable,
    so an empty list of verdicts, or an empty list of stages, is never `allow`. A policy that is not enforced allows
    everything and says so in the reasons.
    """
    if not policy.enforced:
        return _off(policy, verdicts)
    decided = tuple(policy.stages if stages is None else dict.fromkeys(stages))
    findings = [finding for verdict in verdicts for finding in _weigh(policy, verdict)]
    answered = {verdict.name for verdict in verdicts}
    incomplete = {verdict.name for verdict in verdicts if not verdict.ran}
    for stage in decided:
        checks = policy.stages.get(stage)
        if checks is None:
            findings.append((policy.on_unavailable_required, f"policy {policy.id} names no checks for stage {stage}"))
            continue
        missing = (f"{stage}/{check}" for check in checks.requested)
        findings += [_gap(policy, name, "left no verdict") for name in missing if name not in answered]
    if not decided:
        findings.append((policy.on_unavailable_required, "no stage was decided on"))
    findings.sort(key=lambda finding: -_GRAVITY[finding[0]])
    return Decision(
        action=gravest(action for action, _ in findings),
        reasons=tuple(dict.fromkeys(reason for _, reason in findings if reason)),
        policy_id=policy.id,
        policy_version=policy.version,
        policy_sha256=policy.sha256,
        requested_checks=tuple(
            f"{stage}/{check}"
            for stage in decided
            if stage in policy.stages
            for check in policy.stages[stage].requested
        ),
        effective_checks=tuple(name for name in dict.fromkeys(v.name for v in verdicts) if name not in incomplete),
        verdicts=tuple(verdicts),
    )


def may_generate(policy: Policy, decision: Decision) -> bool:
    """Whether a scenario is worth a GPU after its texts and its input were decided on.

    A flag that a person must look at is generated and held, so that there is something to look at. What is blocked is
    not, nor what a required check gave no answer on: that is asked again in the next run.
    """
    unanswered = {f"{stage}/{check}" for stage, checks in policy.stages.items() for check in checks.required} & set(
        decision.missing_checks
    )
    failed = any(verdict.status == "error" for verdict in decision.verdicts)
    return decision.action != "block" and not unanswered and not failed


def _off(policy: Policy, verdicts: Sequence[Verdict]) -> Decision:
    return Decision(
        action="allow",
        reasons=(f"guardrails are switched off by policy {policy.id}: nothing was checked",),
        enforced=False,
        policy_id=policy.id,
        policy_version=policy.version,
        policy_sha256=policy.sha256,
        requested_checks=(),
        effective_checks=tuple(dict.fromkeys(verdict.name for verdict in verdicts if verdict.ran)),
        verdicts=tuple(verdicts),
    )


def _weigh(policy: Policy, verdict: Verdict) -> list[tuple[Action, str]]:
    if verdict.status == "pass":
        return []
    if verdict.status == "error":
        kind = verdict.evidence.get("exception")
        return [(policy.on_error, f"{verdict.name} failed{f': {kind}' if kind else ''}")]
    if verdict.status == "unavailable":
        return [_gap(policy, verdict.name, "unavailable")]
    return [_flagged(policy, verdict, category) for category in verdict.categories]


def _flagged(policy: Policy, verdict: Verdict, category: str | None) -> tuple[Action, str]:
    rule = policy.categories.get(category) if category is not None else None
    if rule is None:
        return policy.unknown_category, f"{verdict.name} flagged {category or 'without a category'} (not in the policy)"
    return rule.action, f"{verdict.name} flagged {category}"


def _gap(policy: Policy, name: str, what: str) -> tuple[Action, str]:
    stage, check = name.split("/", 1)
    required = any(check in checks.required for where, checks in policy.stages.items() if where == stage)
    if required:
        return policy.on_unavailable_required, f"{name} {what} (required)"
    if policy.on_unavailable_optional == "mark":
        return "allow", f"{name} {what}"
    return policy.on_unavailable_optional, f"{name} {what}"
