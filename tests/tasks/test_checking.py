"""The stages of one scenario: inputs are redacted before generation, and a policy that is off touches nothing."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.errors import BadInput
from cosmos_core.video_file import write_video
from tasks.checking import check_clip, check_conditioning
from tasks.detectors import FaceSearch, HaarFaceDetector
from tasks.guard_config import GuardConfig
from tasks.guards import Guards
from tasks.policy import decide, load_policy
from tasks.verdicts import Verdict
from tests.tasks.chat_server import chat_server, completion

cv2 = pytest.importorskip("cv2")
data = pytest.importorskip("skimage.data")

CONFIGS = Path(__file__).parents[2] / "configs/guardrail"
POLICY = load_policy(CONFIGS / "its-accident.yaml")
EARLY = decide(
    POLICY,
    [
        Verdict(stage=stage, check="text.lexicon", status="pass", backend="test")
        for stage in ("prompt", "refined_prompt", "negative_prompt")
    ],
    stages=("prompt", "refined_prompt", "negative_prompt"),
)


def check(path: Path, tmp_path: Path, *, policy=POLICY, num_frames: int = 1):
    return check_conditioning(
        path, tmp_path / "work", num_frames=num_frames, policy=policy, guards=Guards(), text_decision=EARLY
    )


def test_a_face_in_the_input_is_covered_before_anything_is_generated_from_it(tmp_path):
    picture = data.astronaut()
    Image.fromarray(picture).save(tmp_path / "a.png")
    checked = check(tmp_path / "a.png", tmp_path)
    assert checked.decision.action == "redact"
    redacted = np.load(checked.redacted_path)
    assert redacted.shape == (1, *picture.shape)
    assert (redacted[0] != picture).any()
    assert (redacted[0][400:] == picture[400:]).all()
    statuses = {v.name: v.status for v in checked.decision.verdicts}
    assert (statuses["input/input.sanity"], statuses["input/input.redaction"]) == ("pass", "flag")
    assert statuses["input/input.content"] == "unavailable"


def test_an_input_without_anything_to_cover_is_generated_from_as_it_is(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    checked = check(tmp_path / "a.png", tmp_path)
    assert (checked.decision.action, checked.redacted_path) == ("allow", None)


def test_of_a_video_the_frames_that_are_used_are_checked(tmp_path):
    # Black until the last frames: only these are conditioned on.
    frames = np.zeros((12, 64, 96, 3), dtype=np.uint8)
    frames[-5:] = np.random.default_rng(0).integers(0, 255, (5, 64, 96, 3), dtype=np.uint8)
    write_video(frames, tmp_path / "a.mp4", fps=10, crf=10)
    checked = check(tmp_path / "a.mp4", tmp_path, num_frames=5)
    [sanity] = [v for v in checked.decision.verdicts if v.check == "input.sanity"]
    assert (sanity.status, sanity.evidence["num_frames"]) == ("pass", 5)


def test_a_black_input_is_held(tmp_path):
    Image.fromarray(np.zeros((64, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    assert check(tmp_path / "a.png", tmp_path).decision.action == "quarantine"


def test_an_input_that_cannot_be_read_is_a_wrong_request(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(BadInput):
        check(tmp_path / "a.png", tmp_path)


def test_a_policy_that_is_off_looks_at_nothing_and_says_so(tmp_path):
    off = load_policy(CONFIGS / "off.yaml")
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    checked = check(tmp_path / "a.png", tmp_path, policy=off)
    assert (checked.redacted_path, checked.decision.verdicts) == (None, ())
    np.save(tmp_path / "frames.npy", np.zeros((4, 48, 64, 3), dtype=np.uint8))
    clip = check_clip(
        tmp_path / "frames.npy", tmp_path / "v.mp4",
        policy=off, guards=Guards(), earlier=checked.decision, fps=10, crf=23,
    )  # fmt: skip
    assert (clip.decision.action, clip.decision.enforced, clip.decision.policy_id) == ("allow", False, "off")


def test_scenarios_that_are_checked_at_the_same_moment_all_find_the_cascade():
    program = """
import threading
from tasks.detectors import FaceSearch, HaarFaceDetector
start, found = threading.Barrier(6), []
def look():
    start.wait()
    found.append(HaarFaceDetector(FaceSearch()).name)
threads = [threading.Thread(target=look) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "6", done.stderr


@pytest.mark.parametrize("can_redact", [True, False])
def test_an_endpoint_sees_redacted_frames_or_none(tmp_path, monkeypatch, can_redact):
    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    if not can_redact:
        monkeypatch.setattr(cv2, "data", None)
    with chat_server() as server:
        server.replies = [completion('{"violation": false, "categories": []}')]
        place = {"url": server.url, "model": "vlm", "max_attempts": 1}
        content = {"kind": "endpoint", "endpoint": place, "long_side": 512}
        with Guards(GuardConfig.model_validate({"content": content})) as guards:
            checked = check_conditioning(
                tmp_path / "a.png", tmp_path, num_frames=1, policy=POLICY, guards=guards, text_decision=EARLY
            )
    statuses = {v.check: v.status for v in checked.decision.verdicts}
    if not can_redact:
        assert server.requests == []
        assert statuses["input.content"] == statuses["input.redaction"] == "unavailable"
        assert not checked.decision.publishes
        return
    assert statuses["input.content"] == "pass"
    url = server.requests[0]["messages"][-1]["content"][0]["image_url"]["url"]
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))), dtype=float)
    redacted = np.load(checked.redacted_path)[0].astype(float)
    assert np.abs(sent - redacted).mean() < 5 < np.abs(redacted - data.astronaut()).max()
    assert not HaarFaceDetector(FaceSearch()).detect_many(sent.astype(np.uint8)[None])[0]
