"""The nine ways in which the reference's guardrail lets things pass, each built here, each ending unpublished.

The last two tests are the control: what is harmless does get through the very same path.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

from cosmos_core.errors import BadConfig, CheckpointMismatch
from cosmos_core.guard_text import TextGuard
from tasks.checking import check_clip, check_conditioning, check_prompts
from tasks.guard_config import GuardConfig
from tasks.guards import Guards
from tasks.lexicon import load_lexicon
from tasks.policy import Policy, decide, load_policy, may_generate
from tasks.records import Status
from tasks.scenario import Scenario
from tasks.stages import _status
from tasks.verdicts import Decision
from tests.tasks.chat_server import Reply, chat_server, completion
from tests.tasks.tiny_guards import save_classifier, save_text_guard

CONFIGS = Path(__file__).parents[2] / "configs/guardrail"
POLICY = load_policy(CONFIGS / "its-accident.yaml")
LEXICON = load_lexicon(CONFIGS / "lexicon.yaml")
PROMPT = "A red sedan turns left and stops."


def texts(config: dict | None = None, prompt: str = PROMPT, policy: Policy = POLICY) -> Decision:
    scenario = Scenario(row_number=0, scenario_id="a", input="a.png", input_uri="a.png", prompt=prompt, output_name="a")
    with Guards(GuardConfig.model_validate(config or {})) as guards:
        return check_prompts(policy, LEXICON, scenario, prompt, guards)


def clip(tmp_path: Path, content: dict | None) -> Decision:
    """The decision on a whole scenario with harmless texts and a harmless input."""
    frames = np.random.default_rng(0).integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    from PIL import Image

    Image.fromarray(frames[0]).save(tmp_path / "input.png")
    with Guards(GuardConfig.model_validate({"content": content})) as guards:
        early = check_conditioning(
            tmp_path / "input.png", tmp_path, num_frames=1, policy=POLICY, guards=guards, text_decision=texts()
        )
        checked = check_clip(
            tmp_path / "frames.npy", tmp_path / "v.mp4",
            policy=POLICY, guards=guards, earlier=early.decision, fps=10, crf=23,
        )  # fmt: skip
    assert checked.facts.num_frames == 8
    return checked.decision


def siglip(paths: tuple[Path, Path]) -> dict:
    return {"kind": "siglip", "head": str(paths[0]), "encoder": str(paths[1])}


def guarded_by(reply: Reply, form: str) -> Decision:
    with chat_server() as server:
        server.replies = [reply]
        place = {"url": server.url, "model": "guard", "max_attempts": 1}
        return texts({"text": {"text.guard_model": {"kind": "endpoint", "endpoint": place, "form": form}}})


def refuses(decision: Decision) -> bool:
    return not decision.publishes and _status(decision) is not Status.PUBLISHED


def test_1_a_runner_without_models():
    assert refuses(decide(POLICY, []))
    assert refuses(decide(POLICY, [], stages=[]))
    hollow = POLICY.model_dump(mode="json")
    hollow["stages"]["prompt"] = {}
    with pytest.raises(ValueError, match="no required check"):
        Policy.model_validate(hollow)
    # And a model that is asked for and not there, in a run that was started all the same.
    demanding = POLICY.model_dump(mode="json")
    demanding["stages"]["prompt"] = {"required": ["text.lexicon", "text.guard_model"]}
    policy = Policy.model_validate(demanding)
    decision = texts(policy=policy)
    assert refuses(decision)
    assert not may_generate(policy, decision)
    with pytest.raises(BadConfig, match="nothing here makes this check"):
        Guards().require_use(policy)


def test_2_a_guard_model_that_raises(tmp_path):
    folder = save_text_guard(tmp_path / "g", ["safe"], template="{{ nothing.at.all }}")
    guard = {"kind": "transformers", "folder": str(folder), "form": "llama_guard", "dtype": "float32"}
    decision = texts({"text": {"text.guard_model": guard}})
    assert refuses(decision)
    assert not may_generate(POLICY, decision)
    assert refuses(guarded_by(Reply(status=500), "llama_guard"))


def test_3_a_video_filter_that_fails_on_every_frame(tmp_path):
    head, encoder = save_classifier(tmp_path)
    content = torch.load(head, weights_only=True)
    content["model"]["network.layers.0.weight"].fill_(float("nan"))
    torch.save(content, head)
    decision = clip(tmp_path, siglip((head, encoder)))
    assert refuses(decision)
    assert "video/video.content failed: CheckpointMismatch" in decision.reasons


@pytest.mark.parametrize(
    "text", ["Safety: None\nCategories: None", "", "Categories: None", "Safety:\nCategories: None"]
)
def test_4_a_label_that_cannot_be_read(text):
    assert refuses(guarded_by(completion(text), "qwen3guard"))


def test_5_controversial():
    decision = guarded_by(completion("Safety: Controversial\nCategories: Violent"), "qwen3guard")
    assert decision.action == "review"
    assert refuses(decision)


def test_6_a_chat_template_that_returns_a_batch_encoding(tmp_path, monkeypatch):
    folder = save_text_guard(tmp_path / "g", ["unsafe"])
    guard = TextGuard.load(folder, device="cpu", dtype=torch.float32, max_new_tokens=8)
    encoded = BatchEncoding({"input_ids": [[2, 12, 3]]})
    monkeypatch.setattr(guard._tokenizer, "apply_chat_template", lambda *_, **__: encoded)
    with pytest.raises(CheckpointMismatch, match="got BatchEncoding"):
        guard.answer(["a car"])
    # Under the transformers that is installed, the model's word comes through.
    config = {"kind": "transformers", "folder": str(folder), "form": "llama_guard", "dtype": "float32"}
    assert refuses(texts({"text": {"text.guard_model": config}}))


def test_7_picture_features_in_an_output_object(tmp_path):
    decision = clip(tmp_path, siglip(save_classifier(tmp_path, prefers="Violence")))
    assert decision.action == "review"
    assert {"input/input.content flagged violence", "video/video.content flagged violence"} <= set(decision.reasons)
    assert refuses(decision)


@pytest.mark.parametrize("prompt", ["피가 흐르는 도로", "血が流れている道路", "кровь на дороге"])
def test_8_text_that_is_not_ascii(prompt):
    decision = texts(prompt=prompt)
    assert refuses(decision)
    assert "prompt/text.lexicon flagged unreadable_text" in decision.reasons


def test_9_a_harmless_phrase_beside_a_hit_of_several_words():
    for prompt in (
        "color bleeding on a flat wall, mangled bodies beside the flat car",
        "mangled bodies, dead ahead, color bleeding",
        "no injuries are visible, yet mangled bodies lie there and the road is flat",
    ):
        decision = texts(prompt=prompt)
        assert refuses(decision)
        assert "prompt/text.lexicon flagged graphic_gore" in decision.reasons


def test_what_is_harmless_is_published(tmp_path):
    decision = clip(tmp_path, siglip(save_classifier(tmp_path, prefers="Safe")))
    assert decision.action == "allow", decision.reasons
    assert "video/video.content" in decision.effective_checks


def test_an_asterisk_blocks_nothing():
    assert texts(prompt="A **red** sedan *turns* left * and stops.").publishes
