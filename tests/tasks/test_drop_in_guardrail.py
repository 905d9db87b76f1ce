"""The pipeline's checks behind the drop-in command's entry point."""

from __future__ import annotations

import numpy as np
import pytest

from cosmos_core.guardrail_hook import find_guardrails
from tasks.drop_in_guardrail import DropInGuardrail


@pytest.fixture(scope="module")
def guardrail() -> DropInGuardrail:
    return DropInGuardrail()


def moving(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)


def test_is_the_installed_one():
    assert [type(found) for found in find_guardrails()] == [DropInGuardrail]


@pytest.mark.parametrize(
    ("prompt", "outcome"),
    [
        ("Two cars collide at a crossing.", "publish"),
        ("An injured driver leaves the car.", "quarantine"),
        ("A man deliberately drives into pedestrians.", "block"),
        ("", "quarantine"),
    ],
)
def test_decides_on_prompts(guardrail, prompt, outcome):
    decision = guardrail.check_prompt(prompt, negative_prompt="")
    assert decision.outcome == outcome
    assert decision.record["policy_id"] == "its-accident"


def test_decides_on_negative_prompts(guardrail):
    decision = guardrail.check_prompt("Two cars collide.", negative_prompt="a nude woman")
    assert decision.outcome == "block"
    assert "negative_prompt/text.lexicon flagged sexual" in decision.reasons


def test_decides_on_frames(guardrail):
    frames, decision = guardrail.check_frames(moving())
    assert decision.publishes
    assert np.array_equal(frames, moving())
    assert "video/video.content unavailable" in decision.reasons


def test_holds_a_frozen_clip(guardrail):
    _, decision = guardrail.check_frames(np.repeat(moving()[:1], 5, axis=0))
    assert decision.outcome == "quarantine"
    assert decision.reasons[0] == "video/video.sanity flagged frozen"
