"""A guard process: one model that judges texts or frames, away from the flow and from the generating worker.

    load:   the model of the spec; answered with `GuardReady`, or with `Failed` and the end
    serve:  each line of standard input a request, each line of standard output its answer
    end:    when standard input closes, as it does when the client is gone

Started as `python -m cosmos_core.guard_server SPEC`, with the spec as JSON. Everything that libraries print goes to
standard error. Any exception becomes the answer `Failed`: nothing is skipped, and no frame is left out of a result.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from pydantic import BaseModel

from cosmos_core.errors import BadInput, BadRequest, CrossroadsError, OutOfMemory
from cosmos_core.guard_protocol import (
    LOAD,
    CheckTexts,
    FaceDetectorSpec,
    FindFaces,
    FrameClassifierSpec,
    GuardReady,
    GuardRequest,
    GuardSpec,
    ScoreFrames,
    decode_guard_request,
    decode_spec,
)
from cosmos_core.guard_text import TextGuard
from cosmos_core.guard_video import CLASSES, FrameClassifier
from cosmos_core.protocol import Done, Failed, encode
from cosmos_core.retinaface import RetinaFaceDetector

__all__ = ["GuardModel", "load_guard", "main"]

logger = logging.getLogger(__name__)

GuardModel = TextGuard | FrameClassifier | RetinaFaceDetector
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_guard(spec: GuardSpec) -> GuardModel:
    """The model of a spec.

    Raises:
        BadModel: a file is missing or wrong.
    """
    if isinstance(spec, FrameClassifierSpec):
        return FrameClassifier.load(head=Path(spec.head), encoder=Path(spec.encoder), device=spec.device)
    if isinstance(spec, FaceDetectorSpec):
        return RetinaFaceDetector.load(Path(spec.weights), device=spec.device, confidence=spec.confidence, nms=spec.nms)
    return TextGuard.load(
        Path(spec.folder), device=spec.device, dtype=_DTYPES[spec.dtype], max_new_tokens=spec.max_new_tokens
    )


def answer(model: GuardModel, request: GuardRequest, *, batch_size: int) -> dict[str, Any]:
    """The result of one request, whole or not at all.

    Raises:
        BadRequest: this model does not do that.
        BadInput: the frames are not what was announced.
    """
    if isinstance(request, CheckTexts) and isinstance(model, TextGuard):
        said = [entry for part in _batches(request.texts, batch_size) for entry in model.answer(part)]
        return {"answers": [{"text": e.answer, "finished": e.finished, "score": e.score} for e in said]}
    if isinstance(request, ScoreFrames) and isinstance(model, FrameClassifier):
        frames = _frames(request)
        scores = np.concatenate([model.score(part) for part in _batches(frames, batch_size)])
        return {"scores": {name: scores[:, index].tolist() for index, name in enumerate(CLASSES)}}
    if isinstance(request, FindFaces) and isinstance(model, RetinaFaceDetector):
        boxes = [found for part in _batches(_frames(request), batch_size) for found in model.detect(part)]
        return {"boxes": [[[b.x, b.y, b.width, b.height, b.score] for b in found] for found in boxes]}
    raise BadRequest("this guard does not answer such requests", got=request.type, expected=type(model).__name__)


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _frames(request: ScoreFrames | FindFaces) -> list[np.ndarray]:
    frames = np.load(request.frames_path, mmap_mode="r", allow_pickle=False)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise BadInput("frames are malformed", got=f"{frames.dtype} {frames.shape}", expected="uint8 [T, H, W, 3]")
    if min(request.indices) < 0 or max(request.indices) >= len(frames):
        raise BadInput("no such frame", got=request.indices, expected=f"0 to {len(frames) - 1}")
    return [frames[index] for index in request.indices]


def _payload(error: Exception) -> dict[str, Any]:
    if isinstance(error, CrossroadsError):
        return dict(error.to_payload())
    if isinstance(error, torch.OutOfMemoryError):
        return dict(OutOfMemory("the device ran out of memory", got=str(error).splitlines()[0]).to_payload())
    return {"type": "CrossroadsError", "what": f"{type(error).__name__}: {error}", "got": None, "expected": None}


def serve(spec: GuardSpec, requests: BinaryIO, answers: BinaryIO) -> int:
    """Load, serve until the requests end; returns the exit status."""

    def say(message: BaseModel) -> None:
        answers.write(encode(message))
        answers.flush()

    try:
        model = load_guard(spec)
    except Exception as error:
        # The border of the process: whatever went wrong is the client's to know, and it decides what that means.
        logger.exception("the model cannot be loaded")
        say(Failed(request_id=LOAD, error=_payload(error)))
        return 1
    say(GuardReady(model=model.name, sha256=model.sha256, device=spec.device))
    for line in requests:
        request_id = "?"
        try:
            request = decode_guard_request(line)
            request_id = request.request_id
            result = answer(model, request, batch_size=spec.batch_size)
        except Exception as error:
            logger.exception("request %s failed", request_id)
            say(Failed(request_id=request_id, error=_payload(error)))
        else:
            say(Done(request_id=request_id, result=result))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of `python -m cosmos_core.guard_server SPEC`; gives the exit status."""
    parser = argparse.ArgumentParser(prog="cosmos_core.guard_server", description="Judge texts or frames.")
    parser.add_argument("spec", help="a guard spec as JSON")
    arguments = parser.parse_args(argv)
    # What libraries print must not end up between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    return serve(decode_spec(arguments.spec), sys.stdin.buffer, answers)


if __name__ == "__main__":
    raise SystemExit(main())
