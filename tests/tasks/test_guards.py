"""Guard models end to end: real processes with tiny models, a real HTTP server; nothing that fails reads as a pass."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cosmos_core.errors import BadConfig, WorkerLost
from cosmos_core.guard_protocol import TextGuardSpec
from tasks.checking import check_prompts
from tasks.config import parse_config
from tasks.guard_client import GuardClient
from tasks.guard_config import ContentGuard, GuardConfig
from tasks.guards import Guards
from tasks.lexicon import load_lexicon
from tasks.policy import load_policy
from tasks.redaction import check_redaction
from tasks.scenario import Scenario
from tests.tasks.chat_server import ChatServer, Reply, chat_server, completion
from tests.tasks.tiny_guards import save_classifier, save_retinaface, save_text_guard

CONFIGS = Path(__file__).parents[2] / "configs/guardrail"
POLICY = load_policy(CONFIGS / "its-accident.yaml")
LEXICON = load_lexicon(CONFIGS / "lexicon.yaml")
PROMPT = "A red sedan turns left and stops."


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


def endpoint(server: ChatServer, form: str, **changes) -> dict:
    place = {"url": server.url, "model": "guard", "timeout_s": 0.5, "max_attempts": 2, "max_pause_s": 0.01}
    return {"kind": "endpoint", "endpoint": place, "form": form} | changes


def decide_with(config: dict, prompt: str = PROMPT):
    scenario = Scenario(row_number=0, scenario_id="a", input="a.png", input_uri="a.png", prompt=prompt, output_name="a")
    with Guards(GuardConfig.model_validate(config)) as guards:
        return check_prompts(POLICY, LEXICON, scenario, prompt, guards)


def guard_verdict(decision, stage: str = "prompt"):
    [verdict] = [v for v in decision.verdicts if (v.stage, v.check) == (stage, "text.guard_model")]
    return verdict


def frames(number: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (number, 48, 64, 3), dtype=np.uint8)


# --- over the wire

ANSWERS = [
    ("llama_guard", "safe", "pass", None, "allow"),
    ("llama_guard", "unsafe\nS1", "flag", "violent_intent", "block"),
    ("llama_guard", "unsafe\nS5", "flag", "defamation", "review"),
    ("qwen3guard", "Safety: Controversial\nCategories: Violent", "flag", "controversial", "review"),
    ("qwen3guard", "Safety: Safe\nCategories: None", "pass", None, "allow"),
    ("nemotron", "User Safety: unsafe\nSafety Categories: Violence", "flag", "violent_intent", "block"),
    ("nemotron_json", '{"User Safety": "safe"}', "pass", None, "allow"),
    (
        "policy_json",
        '{"violation": true, "categories": ["casualty_nongraphic"]}',
        "flag",
        "casualty_nongraphic",
        "review",
    ),
]


@pytest.mark.parametrize(("form", "text", "status", "category", "action"), ANSWERS)
def test_an_endpoints_answer_becomes_a_verdict(server, form, text, status, category, action):
    server.replies = [completion(text, model="guard-7b")]
    decision = decide_with({"text": {"text.guard_model": endpoint(server, form, revision="r1")}})
    verdict = guard_verdict(decision)
    assert (verdict.status, verdict.category, decision.action) == (status, category, action)
    assert (verdict.backend, verdict.model, verdict.revision) == ("endpoint", "guard-7b", "r1")
    assert "prompt/text.guard_model" in decision.effective_checks
    assert [message["role"] for message in server.requests[0]["messages"]][-1] == "user"
    assert server.requests[0]["messages"][-1]["content"] == PROMPT
    assert server.requests[0]["temperature"] == 0


FAILURES = {
    "garbage": [completion("I would say this is fine.")],
    "no text": [completion(None)],
    "truncated by its length": [completion("safe", finish_reason="length")],
    "filtered": [completion("safe", finish_reason="content_filter")],
    "no finish reason": [completion("safe", finish_reason=None)],
    "no completion": [Reply(b'{"choices": []}')],
    "no JSON": [Reply(b"<html>")],
    "cut off": [Reply(completion("safe").body, cut=True)],
    "too many requests": [Reply(status=429)],
    "a server error": [Reply(status=500)],
    "a wrong key": [Reply(status=401)],
    "a wrong address": [Reply(status=404)],
    "a time-out": [Reply(completion("safe").body, delay_s=1.0)],
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failing_endpoint_is_never_a_pass(server, failure):
    server.replies = list(FAILURES[failure])
    decision = decide_with({"text": {"text.guard_model": endpoint(server, "llama_guard")}})
    assert guard_verdict(decision).status == "error"
    assert decision.action == "quarantine"
    assert "prompt/text.guard_model" not in decision.effective_checks


def test_an_endpoint_that_is_not_there_is_never_a_pass(server):
    config = {"text": {"text.guard_model": endpoint(server, "llama_guard")}}
    config["text"]["text.guard_model"]["endpoint"]["url"] = "http://127.0.0.1:9/v1"
    assert guard_verdict(decide_with(config)).status == "error"


def test_what_passes_by_itself_is_asked_again(server):
    server.replies = [Reply(status=429), completion("safe")]
    decision = decide_with({"text": {"text.guard_model": endpoint(server, "llama_guard")}})
    assert guard_verdict(decision).status == "pass"
    assert guard_verdict(decision).evidence["attempts"] == 2


def test_the_key_is_sent_and_never_recorded(server, monkeypatch):
    monkeypatch.setenv("GUARD_KEY", "sk-secret")
    server.replies = [completion("nonsense")]
    guard = endpoint(server, "llama_guard")
    guard["endpoint"]["api_key_env"] = "GUARD_KEY"
    decision = decide_with({"text": {"text.guard_model": guard}})
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in decision.model_dump_json()
    monkeypatch.delenv("GUARD_KEY")
    with pytest.raises(BadConfig, match="GUARD_KEY"):
        decide_with({"text": {"text.guard_model": guard}})


def test_a_seeing_model_gets_evenly_spaced_frames_in_one_question(server):
    server.replies = [completion('{"violation": true, "categories": ["graphic_gore"]}')]
    config = {"content": endpoint(server, "policy_json", max_frames=3, long_side=64)}
    with Guards(GuardConfig.model_validate(config)) as guards:
        verdict = guards.check_content(frames(9), stage="video", policy=POLICY)
    assert (verdict.status, verdict.category, verdict.evidence["frames"]) == ("flag", "graphic_gore", [0, 4, 8])
    [request] = server.requests
    parts = request["messages"][-1]["content"]
    assert [part["type"] for part in parts] == ["image_url"] * 3 + ["text"]
    assert parts[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")


# --- local models, each in a process of its own


def local(folder: Path, form: str = "llama_guard", **changes) -> dict:
    return {"kind": "transformers", "folder": str(folder), "form": form, "dtype": "float32", "max_tokens": 8} | changes


def test_a_local_guard_model_reads_all_texts(tmp_path):
    folder = save_text_guard(tmp_path / "meta/guard", ["unsafe", "\n", "S10"])
    decision = decide_with({"text": {"text.guard_model": local(folder)}})
    verdict = guard_verdict(decision, "refined_prompt")
    assert (verdict.status, verdict.backend, verdict.model) == ("flag", "transformers", "meta/guard")
    assert verdict.category == "hate"
    assert verdict.score > 0.9
    assert len(verdict.revision) == 12
    assert decision.action == "block"


def test_the_visual_classifier_scores_a_clip_in_one_request(tmp_path):
    head, encoder = save_classifier(tmp_path, prefers="Violence")
    config = {"content": {"kind": "siglip", "head": str(head), "encoder": str(encoder)}}
    with Guards(GuardConfig.model_validate(config)) as guards:
        verdict = guards.check_content(frames(), stage="video", policy=POLICY)
        again = guards.check_content(frames(1), stage="input", policy=POLICY)
    assert (verdict.status, verdict.category, verdict.backend) == ("flag", "violence", "siglip")
    assert verdict.score > 0.99
    assert verdict.evidence["num_frames"] == 4
    assert verdict.evidence["findings"][0]["first_frame"] == 0
    assert (again.status, again.stage) == ("flag", "input")


def test_retinaface_takes_the_place_of_the_cascade(tmp_path):
    loud = save_retinaface(tmp_path / "face.pth", threshold_bias=8.0)
    with Guards(GuardConfig.model_validate({"faces": {"kind": "retinaface", "weights": str(loud)}})) as guards:
        clip = frames(2)
        redacted, verdict = check_redaction(clip, POLICY.redaction, face_detector=guards.face_detector())
    assert (verdict.status, verdict.category) == ("flag", "face_residual")  # it fires on every anchor, always
    assert "retinaface-resnet50" in verdict.model
    assert not np.array_equal(redacted, clip)


@pytest.mark.parametrize("what", ["text", "content", "faces"])
def test_missing_weights_are_unavailable_and_never_a_pass(tmp_path, what):
    config = {
        "text": {"text": {"text.guard_model": local(tmp_path / "none")}},
        "content": {"content": {"kind": "siglip", "head": str(tmp_path / "h.pt"), "encoder": str(tmp_path / "e")}},
        "faces": {"faces": {"kind": "retinaface", "weights": str(tmp_path / "f.pth")}},
    }[what]
    with Guards(GuardConfig.model_validate(config)) as guards:
        if what == "text":
            [verdict] = guards.check_text(PROMPT, stage="prompt", policy=POLICY)
        elif what == "content":
            verdict = guards.check_content(frames(), stage="video", policy=POLICY)
        else:
            _, verdict = check_redaction(frames(), POLICY.redaction, face_detector=guards.face_detector())
    assert verdict.status == "unavailable", verdict.evidence


# --- the process


def client(folder: Path, tmp_path: Path, **changes) -> GuardClient:
    spec = TextGuardSpec(folder=str(folder), max_new_tokens=8)
    return GuardClient(spec, log_folder=tmp_path / "logs", **({"load_timeout_s": 120, "timeout_s": 60} | changes))


@pytest.mark.slow
def test_a_process_that_was_killed_costs_one_answer(tmp_path):
    guard = client(save_text_guard(tmp_path / "g", ["safe"]), tmp_path)
    try:
        assert guard.check_texts(("car",))[0]["text"] == "safe"
        guard._process.kill()
        guard._process.wait()
        assert guard.check_texts(("car", "S1"))[1]["finished"] is True
    finally:
        guard.close()
    with pytest.raises(WorkerLost, match="was stopped"):
        guard.check_texts(("car",))


def test_a_process_that_does_not_answer_in_time_is_ended(tmp_path):
    guard = client(save_text_guard(tmp_path / "g", ["safe"]), tmp_path, load_timeout_s=0.01)
    with pytest.raises(WorkerLost, match="no answer within"):
        guard.ready()
    assert guard._process is None


def test_closing_ends_a_request_that_waits_in_another_thread(tmp_path):
    guard = client(save_text_guard(tmp_path / "g", ["safe"]), tmp_path)
    caught: list[BaseException] = []

    def load() -> None:
        try:
            guard.ready()
        except WorkerLost as error:
            caught.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    time.sleep(0.5)
    guard.close()
    thread.join(10)
    assert [str(error)[:29] for error in caught] == ["the guard process was stopped"]


# --- configuration


def test_a_policy_and_a_configuration_that_do_not_fit_are_refused(tmp_path):
    spare = GuardConfig.model_validate({"text": {"text.other": local(tmp_path)}})
    with pytest.raises(BadConfig, match=r"text\.other is configured and never used"):
        Guards(spare).require_use(POLICY)
    demanding = POLICY.model_dump(mode="json")
    demanding["stages"]["prompt"] = {"required": ["text.lexicon", "text.guard_model"]}
    policy = type(POLICY).model_validate(demanding)
    with pytest.raises(BadConfig, match=r"requires prompt/text\.guard_model, and nothing here makes"):
        Guards().require_use(policy)
    Guards(GuardConfig.model_validate({"text": {"text.guard_model": local(tmp_path)}})).require_use(policy)
    Guards().require_use(POLICY)


def test_the_encoder_is_found_where_the_references_loader_keeps_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    guard = ContentGuard(kind="siglip")
    usual = Path("checkpoints/google/siglip-so400m-patch14-384")
    assert guard.encoder_folder() == usual
    cached = guard.head.parent / "models--google--siglip-so400m-patch14-384/snapshots/9fdffc58"
    cached.mkdir(parents=True)
    (cached / "config.json").touch()
    assert guard.encoder_folder() == cached
    usual.mkdir(parents=True)
    assert guard.encoder_folder() == usual
    assert guard.model_copy(update={"encoder": Path("own")}).encoder_folder() == Path("own")


def test_guards_are_part_of_a_runs_configuration():
    config = parse_config({"guards": {"content": {"kind": "siglip"}, "faces": {"kind": "retinaface"}}}, origin="test")
    assert config.guards.sha256 != GuardConfig().sha256
    assert config.guards.faces.weights.parts[-3:] == ("Cosmos-Guardrail1", "face_blur_filter", "Resnet50_Final.pth")
    with pytest.raises(BadConfig, match="guards"):
        parse_config({"guards": {"content": {"kind": "magic"}}}, origin="test")
    assert "api_key" not in json.dumps(config.model_dump(mode="json"))


def test_guard_models_can_be_kept_off_the_gpu_without_being_others(tmp_path):
    """The hash of what is configured is part of a job's identity, and a machine's memory is not."""
    on_gpu = {"kind": "transformers", "folder": str(tmp_path), "form": "llama_guard", "device": "cuda:1"}
    config = GuardConfig.model_validate({"text": {"text.guard_model": on_gpu}})
    with Guards(config) as configured, Guards(config, on_cpu=True) as moved:
        assert configured._processes["text.guard_model"].spec.device == "cuda:1"
        assert moved._processes["text.guard_model"].spec.device == "cpu"
        assert moved.config.sha256 == configured.config.sha256
