"""The process that answers a refiner's questions: JSON lines on its two pipes, until its input ends.

    python -m cosmos_core.refiner_process FOLDER --device cuda --dtype bfloat16

First it says `{"ready": ...}`. A question is `{"system", "user", "said", "jpeg", "max_tokens"}`, the answer
`{"text", "finish_reason"}`; `{"error": ...}` takes the place of either.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import torch

from cosmos_core.errors import BadConfig, CrossroadsError
from cosmos_core.vision_language import VisionLanguageModel

__all__ = ["main"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser(prog="cosmos_core.refiner_process", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", *_DTYPES), default="auto")
    options = parser.parse_args(arguments)
    # Libraries print to standard output as they please; what is said to the other side goes through a copy of it.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        try:
            device = _device(options.device)
            model = VisionLanguageModel.load(options.folder, device=device, dtype=_dtype(options.dtype, device))
        except CrossroadsError as error:
            _say(replies, {"error": error.to_payload()})
            return 1
        _say(replies, {"ready": device})
        for line in sys.stdin:
            _say(replies, _reply(model, json.loads(line)))
    return 0


def _reply(model: VisionLanguageModel, question: dict[str, Any]) -> dict[str, Any]:
    messages = [{"role": "system", "content": question["system"]}, {"role": "user", "content": question["user"]}]
    for answer, correction in question["said"]:
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": correction}]
    jpeg = base64.b64decode(question["jpeg"]) if question["jpeg"] else None
    try:
        text, finish_reason = model.answer(messages, jpeg=jpeg, max_tokens=question["max_tokens"])
    except CrossroadsError as error:
        return {"error": error.to_payload()}
    return {"text": text, "finish_reason": finish_reason}


def _device(asked: str) -> str:
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadConfig("refiner.device", got="cuda", expected="cpu: no GPU is visible", fix="Use auto or cpu.")
    return asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(asked: str, device: str) -> torch.dtype:
    return _DTYPES[asked] if asked != "auto" else torch.bfloat16 if device == "cuda" else torch.float32


def _say(replies: IO[str], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
