"""The guardrail of one scenario: its texts and its input before anything is generated, its clip before it is published.

Which checks run is the policy's to say, which model makes them the configuration's. Whatever the policy asks for and
nothing here can make is recorded as unavailable. Under a policy that is switched off nothing runs at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from cosmos_core.hashing import sha256_file
from cosmos_core.video_file import probe_input, read_image, read_video, write_video
from tasks.frame_sanity import Frames, check_frames
from tasks.guards import Guards
from tasks.lexicon import Lexicon, check_text
from tasks.policy import Policy, decide
from tasks.redaction import check_redaction
from tasks.release import ReleaseToken
from tasks.scenario import Scenario
from tasks.thumbnails import filmstrip
from tasks.verdicts import STAGES, Decision, Stage, Verdict, unavailable

__all__ = ["CheckedClip", "CheckedInput", "VideoFacts", "check_clip", "check_conditioning", "check_prompts"]


_TEXT_STAGES: tuple[Stage, ...] = ("prompt", "refined_prompt", "negative_prompt")
_EARLY_STAGES: tuple[Stage, ...] = (*_TEXT_STAGES, "input")


class VideoFacts(BaseModel):
    """An encoded video as a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    num_bytes: int
    width: int
    height: int
    num_frames: int
    fps: int


class CheckedInput(BaseModel):
    """An input that has been decided on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Decision
    """On the texts and the input."""
    redacted_path: Path | None = None
    """Frames to generate from instead of the input, uint8 [T, H, W, 3], .npy; None if nothing had to be covered."""


class CheckedClip(BaseModel):
    """A clip that has been decided on, redacted and encoded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: Decision
    video_path: Path
    thumbnail_path: Path
    facts: VideoFacts
    seconds: float
    release: ReleaseToken | None = None
    """The right to publish the file; None if the decision holds it."""


def check_prompts(
    policy: Policy, lexicon: Lexicon, scenario: Scenario, refined_prompt: str, guards: Guards
) -> Decision:
    """Decide on a scenario's texts: as given, as refined, and the negative prompt."""
    if not policy.enforced:
        return decide(policy, ())
    texts: dict[Stage, str] = {
        "prompt": scenario.prompt,
        "refined_prompt": refined_prompt,
        "negative_prompt": scenario.negative_prompt,
    }
    verdicts = []
    for stage, text in texts.items():
        verdicts.append(check_text(text, lexicon, stage=stage, optional=stage == "negative_prompt"))
        verdicts += guards.check_text(text, stage=stage, policy=policy)
    return decide(policy, (*verdicts, *_gaps(policy, _TEXT_STAGES, verdicts)), stages=_TEXT_STAGES)


def check_conditioning(
    input_path: Path, folder: Path, *, num_frames: int, policy: Policy, guards: Guards, text_decision: Decision
) -> CheckedInput:
    """Check and redact the frames that a clip will be generated from.

    Args:
        input_path: picture or video as it was given.
        folder: where redacted frames are written, as `input.npy`.
        num_frames: how many frames at the end of a video are used.

    Raises:
        BadInput: the input cannot be decoded.
    """
    if not policy.enforced:
        return CheckedInput(decision=decide(policy, ()))
    is_picture = probe_input(input_path, min_frames=num_frames).kind == "image"
    frames = read_image(input_path)[None] if is_picture else read_video(input_path, last=num_frames)
    redacted, verdicts = _look(frames, stage="input", policy=policy, guards=guards)
    path = None
    if redacted is not frames:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "input.npy"
        np.save(path, redacted)
    verdicts = [*text_decision.verdicts, *verdicts]
    decision = decide(policy, (*verdicts, *_gaps(policy, _EARLY_STAGES, verdicts)), stages=_EARLY_STAGES)
    return CheckedInput(decision=decision, redacted_path=path)


def check_clip(
    frames_path: Path,
    video_path: Path,
    *,
    policy: Policy,
    guards: Guards,
    earlier: Decision,
    fps: int,
    crf: int,
) -> CheckedClip:
    """Check and redact the frames of a clip, decide on all that is known, and encode the redacted frames.

    The clip is encoded whatever the decision: a person who reviews it must be able to see it.

    Args:
        earlier: decision on the texts and the input.
    """
    started = time.monotonic()
    frames: Frames = np.load(frames_path, mmap_mode="r", allow_pickle=False)
    redacted, decision = frames, decide(policy, earlier.verdicts)
    if policy.enforced:
        redacted, found = _look(frames, stage="video", policy=policy, guards=guards, frames_path=frames_path)
        verdicts = (*earlier.verdicts, *found)
        decision = decide(policy, (*verdicts, *_gaps(policy, STAGES, verdicts)))
    write_video(redacted, video_path, fps=fps, crf=crf, metadata={"comment": "synthetic video, generated by a model"})
    thumbnail_path = video_path.with_suffix(".jpg")
    thumbnail_path.write_bytes(filmstrip(redacted))
    num_frames, height, width, _ = redacted.shape
    facts = VideoFacts(
        sha256=sha256_file(video_path),
        num_bytes=video_path.stat().st_size,
        width=width,
        height=height,
        num_frames=num_frames,
        fps=fps,
    )
    return CheckedClip(
        decision=decision,
        video_path=video_path,
        thumbnail_path=thumbnail_path,
        facts=facts,
        seconds=time.monotonic() - started,
    )


def _look(
    frames: Frames, *, stage: Stage, policy: Policy, guards: Guards, frames_path: Path | None = None
) -> tuple[Frames, list[Verdict]]:
    """The checks of frames; they come back redacted, or as the very same array if nothing had to be covered."""
    sanity = check_frames(frames, policy.sanity, stage=stage)
    redacted, redaction = check_redaction(frames, policy.redaction, stage=stage, face_detector=guards.face_detector())
    if not guards.shows_frames_to_others:
        content = guards.check_content(frames, stage=stage, policy=policy, frames_path=frames_path)
    elif redaction.ran and not any(str(category).endswith("_residual") for category in redaction.categories):
        content = guards.check_content(redacted, stage=stage, policy=policy)
    else:
        content = unavailable(stage, f"{stage}.content", "frames that could not be redacted stay on this machine")
    return redacted, [sanity, redaction, content]


def _gaps(policy: Policy, stages: Sequence[Stage], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """An explicit `unavailable` for every check that the policy asks for and nothing here can make."""
    made = {(verdict.stage, verdict.check) for verdict in verdicts}
    return [
        unavailable(stage, check, "no backend is configured for this check")
        for stage in stages
        if stage in policy.stages
        for check in policy.stages[stage].requested
        if (stage, check) not in made
    ]
