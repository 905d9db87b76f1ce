"""The guardrail of the drop-in command: the checks and the policy of the pipeline, behind the core's entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cosmos_core.guardrail_hook import GuardrailDecision, Outcome
from tasks.config import RunConfig, find_config_file
from tasks.lexicon import check_text, load_lexicon
from tasks.policy import decide, load_policy
from tasks.redaction import check_frames, check_redaction, content_unavailable
from tasks.verdicts import Action, Decision, Stage

__all__ = ["DropInGuardrail"]

_TEXT_STAGES: tuple[Stage, ...] = ("prompt", "refined_prompt", "negative_prompt")
_VIDEO_STAGES: tuple[Stage, ...] = ("video",)
_OUTCOMES: dict[Action, Outcome] = {
    "allow": "publish",
    "redact": "publish",
    "review": "quarantine",
    "quarantine": "quarantine",
    "block": "block",
}


class DropInGuardrail:
    """Lexicon, frame sanity and face redaction under one policy.

    Args:
        policy: policy file; by default that of a run without a configuration.
        lexicon: category lists; likewise.

    Raises:
        BadConfig: a file is missing or wrong.
    """

    name = "crossroads"

    def __init__(self, policy: Path | None = None, lexicon: Path | None = None) -> None:
        defaults = RunConfig()
        self._policy = load_policy(find_config_file(policy or defaults.policy))
        self._lexicon = load_lexicon(find_config_file(lexicon or defaults.lexicon))

    def check_prompt(self, prompt: str, *, negative_prompt: str) -> GuardrailDecision:
        """Decide on a prompt, which no refiner changes, and on its negative prompt."""
        verdicts = (
            check_text(prompt, self._lexicon, stage="prompt"),
            check_text(prompt, self._lexicon, stage="refined_prompt"),
            check_text(negative_prompt, self._lexicon, stage="negative_prompt", optional=True),
        )
        return _translated(decide(self._policy, verdicts, stages=_TEXT_STAGES))

    def check_frames(self, frames_THWC: np.ndarray) -> tuple[np.ndarray, GuardrailDecision]:
        """Decide on a clip, with the faces in it covered."""
        sanity = check_frames(frames_THWC, self._policy.sanity)
        redacted, redaction = check_redaction(frames_THWC, self._policy.redaction)
        verdicts = (sanity, redaction, content_unavailable())
        return redacted, _translated(decide(self._policy, verdicts, stages=_VIDEO_STAGES))


def _translated(decision: Decision) -> GuardrailDecision:
    return GuardrailDecision(
        outcome=_OUTCOMES[decision.action], reasons=decision.reasons, record=decision.model_dump(mode="json")
    )
