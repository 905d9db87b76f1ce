"""From what a model said to the text of a prompt, or to the reason why it is none.

Strict on purpose: whatever is cut, wrapped in talk or not the object that was asked for is refused, never repaired.
Only what means nothing is taken off: a finished chain of thought, a code fence, typographic quotes and dashes.
"""

from __future__ import annotations

import json
import re
import unicodedata

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.refiner_instructions import Answer
from tasks.traffic_words import STATIC_CAMERA

__all__ = ["UnusableAnswer", "refined_text"]

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL)
_TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
_MARKUP = re.compile(r"[*_#`<>{}\[\]|\\]")
_STATIC = re.compile(r"\b(?:static|fixed|stationary|mounted)\b", re.IGNORECASE)
_VERB = re.compile(r"\s+(?:captures?|shows?|views?|records?|overlooks?|observes?)$", re.IGNORECASE)


class UnusableAnswer(Exception):
    """An answer is no prompt; says why."""


class _Parts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    camera: str
    scene: str
    incident: str
    aftermath: str


def refined_text(answer: Answer) -> str:
    """The prompt that an answer holds: camera, scene, incident, aftermath in one paragraph.

    Raises:
        UnusableAnswer: it holds none.
    """
    if answer.finish_reason != "stop":
        raise UnusableAnswer(f"the answer is not finished (finish reason {answer.finish_reason or 'unknown'})")
    parts = _parts(_spoken(answer.text))
    camera, scene = _phrase("camera", parts.camera), _phrase("scene", parts.scene)
    camera = _VERB.sub("", camera)
    if not STATIC_CAMERA.fullmatch(camera) or not _STATIC.search(camera):
        raise UnusableAnswer("the camera is not a static traffic camera")
    article = re.match(r"(?:An?|The)\b", scene)
    scene = scene[0].lower() + scene[1:] if article else scene
    sentences = [f"{camera[0].upper()}{camera[1:]} captures {scene}."]
    sentences += [_sentences(name, getattr(parts, name)) for name in ("incident", "aftermath")]
    return " ".join(sentences)


def _spoken(text: str) -> str:
    """An answer without the thinking before it and the wrapping around it."""
    if "<think>" in text and "</think>" not in text:
        raise UnusableAnswer("the answer ends inside its reasoning")
    text = text.rpartition("</think>")[2].strip()
    if "<answer>" in text:
        text, closed, _ = text.rpartition("<answer>")[2].partition("</answer>")
        if not closed:
            raise UnusableAnswer("the answer is not closed")
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    return fenced[1].strip() if fenced else text


def _parts(text: str) -> _Parts:
    if not text:
        raise UnusableAnswer("the answer is empty")
    try:
        return _Parts.model_validate(json.loads(text))
    except (json.JSONDecodeError, RecursionError):
        raise UnusableAnswer("the answer is not one JSON object") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the object"
        known = field if field in _Parts.model_fields else "an unknown part"
        raise UnusableAnswer(f"the answer's parts are wrong ({known}: {first['msg'].lower()})") from None


def _phrase(name: str, value: str) -> str:
    text = _plain(name, value).rstrip(" .,;:")
    if not text:
        raise UnusableAnswer(f"the part {name} is empty")
    return text


def _sentences(name: str, value: str) -> str:
    text = _phrase(name, value)
    return f"{text[0].upper()}{text[1:]}."


def _plain(name: str, value: str) -> str:
    """One line of ASCII without markup."""
    text = " ".join(unicodedata.normalize("NFKC", value.translate(_TYPOGRAPHY)).split())
    if not text.isascii() or not text.isprintable():
        raise UnusableAnswer(f"the part {name} has characters that the text encoder does not know")
    if _MARKUP.search(text):
        raise UnusableAnswer(f"the part {name} has markup")
    return text
