"""What a guard model's answer means as a verdict: texts by a language model, frames by a classifier or a seeing model.

Every function here answers with a verdict and never raises: an exception, an answer that cannot be read or was cut
short, or scores with a hole become `error`; weights that are not there become `unavailable`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import JsonValue

from cosmos_core.errors import CheckpointMissing
from tasks.chat_endpoint import ChatClient, Message
from tasks.frame_sanity import Frames, require_frames
from tasks.frame_scores import ContentOptions, findings, sampled_frames
from tasks.guard_answers import AnswerForm, GuardVerdict, UnreadableAnswer, instructions, parse_answer, request_options
from tasks.guard_client import GuardClient
from tasks.guard_config import EndpointFrames, EndpointGuard, ModelGuard
from tasks.verdicts import CheckUnavailable, Stage, Verdict, run_check

__all__ = ["CLASS_CATEGORIES", "check_by_classifier", "check_by_endpoint", "check_by_model", "check_by_seeing_model"]

CLASS_CATEGORIES = {
    "Sexual_Content": "sexual",
    "Violence": "violence",
    "Drugs": "drugs",
    "Child_Abuse": "child_abuse",
    "Hate_and_Harassment": "hate",
    "Self-Harm": "self_harm",
}
"""The policy's names of the visual classifier's classes; `Safe` is none."""

_SAFE_CLASS = "Safe"
_QUOTED = 400  # characters of an answer that the evidence keeps


def check_by_endpoint(client: ChatClient, guard: EndpointGuard, text: str, *, stage: Stage, check: str) -> Verdict:
    """Let a guard model behind an address read a text."""

    def call() -> Verdict:
        system = instructions(guard.form)
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": text})
        return _ask(client, guard, messages, stage=stage, check=check)

    return _run(stage, check, call, backend="endpoint", model=guard.endpoint.model, revision=guard.revision)


def check_by_seeing_model(
    client: ChatClient, guard: EndpointFrames, frames: Frames, *, stage: Stage, check: str
) -> Verdict:
    """Show some frames of a clip to a model behind an address, all in one question."""

    def call() -> Verdict:
        require_frames(frames)
        indices = np.unique(np.linspace(0, len(frames) - 1, min(guard.max_frames, len(frames))).round().astype(int))
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_url(frames[index], guard.long_side)}} for index in indices
        ]
        question = {"type": "text", "text": f"{len(pictures)} frames of one video, in their order."}
        messages: list[Message] = [
            {"role": "system", "content": instructions(guard.form)},
            {"role": "user", "content": [*pictures, question]},
        ]
        return _ask(client, guard, messages, stage=stage, check=check, frames=[int(index) for index in indices])

    return _run(stage, check, call, backend="endpoint", model=guard.endpoint.model, revision=guard.revision)


def check_by_model(client: GuardClient, guard: ModelGuard, text: str, *, stage: Stage, check: str) -> Verdict:
    """Let a local guard model read a text."""

    def call() -> Verdict:
        ready = client.ready()
        [answer] = client.check_texts((text,))
        if answer["finished"] is not True:
            raise _cut(guard.form, str(answer["text"]))
        verdict = parse_answer(guard.form, answer["text"])
        score = float(answer["score"])
        evidence: dict[str, JsonValue] = {
            "answer": answer["text"][:_QUOTED],
            "first_token_probability": round(score, 6),
        }
        # Only Llama Guard's first word is the verdict itself.
        made = _verdict(verdict, stage, check, evidence, score=score if guard.form == "llama_guard" else None)
        return made.model_copy(update={"model": ready.model, "revision": ready.sha256[:12]})

    return _run(stage, check, call, backend="transformers", model=guard.folder.name, revision=None)


def check_by_classifier(
    client: GuardClient, frames: Frames, frames_path: Path, options: ContentOptions, *, stage: Stage, check: str
) -> Verdict:
    """Let the visual classifier score frames, all in one request, and weigh them by the policy's thresholds.

    Args:
        frames_path: .npy file that holds the same frames.
    """

    def call() -> Verdict:
        require_frames(frames)
        ready = client.ready()
        indices = sampled_frames(len(frames), options)
        scores = client.score_frames(frames_path, indices)
        expected = {_SAFE_CLASS, *CLASS_CATEGORIES}
        if set(scores) != expected:
            raise UnreadableAnswer("other classes than expected", got=sorted(scores), expected=sorted(expected))
        named = {category: scores[label] for label, category in CLASS_CATEGORIES.items()}
        found, measured = findings(named, indices, options)
        return Verdict(
            stage=stage,
            check=check,
            status="flag" if found else "pass",
            category=found[0].category if found else None,
            other_categories=tuple(finding.category for finding in found[1:]),
            score=found[0].score if found else None,
            evidence={
                "num_frames": len(indices),
                "every": options.every,
                "categories": measured,
                "findings": [finding.model_dump(mode="json") for finding in found],
            },
            backend="siglip",
            model=ready.model,
            revision=ready.sha256[:12],
        )

    return _run(stage, check, call, backend="siglip", model=None, revision=None)


def _ask(
    client: ChatClient,
    guard: EndpointGuard,
    messages: Sequence[Message],
    *,
    stage: Stage,
    check: str,
    **evidence: JsonValue,
) -> Verdict:
    answer = client.ask(messages, max_tokens=guard.max_tokens, extra=request_options(guard.form))
    if answer.finish_reason != "stop":
        raise _cut(guard.form, answer.text)
    made = _verdict(
        parse_answer(guard.form, answer.text),
        stage,
        check,
        {"answer": answer.text[:_QUOTED], "attempts": answer.attempts, **evidence},
        score=None,
    )
    return made.model_copy(update={"model": answer.model})


def _verdict(
    said: GuardVerdict, stage: Stage, check: str, evidence: dict[str, JsonValue], *, score: float | None
) -> Verdict:
    return Verdict(
        stage=stage,
        check=check,
        status="pass" if said.safe else "flag",
        category=said.categories[0] if said.categories else None,
        other_categories=said.categories[1:],
        score=None if said.safe else score,
        evidence=evidence | ({"labels": list(said.labels)} if said.labels else {}),
        backend="",
    )


def _run(
    stage: Stage, check: str, call: Callable[[], Verdict], *, backend: str, model: str | None, revision: str | None
) -> Verdict:
    def translated() -> Verdict:
        try:
            return call()
        except CheckpointMissing as problem:
            raise CheckUnavailable(problem.what, got=problem.got, expected=problem.expected, fix=problem.fix) from None

    verdict = run_check(stage, check, translated, backend=backend)
    known = {"backend": backend, "model": verdict.model or model, "revision": verdict.revision or revision}
    return verdict.model_copy(update=known)


def _cut(form: AnswerForm, text: str) -> UnreadableAnswer:
    return UnreadableAnswer(
        f"an answer in the form {form} was cut short", got=repr(text[:120]), expected="an answer that ends by itself"
    )


def _data_url(frame: Frames, long_side: int) -> str:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((long_side, long_side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
