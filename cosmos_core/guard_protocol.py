"""What is said between a task and a guard process: one JSON object a line, over its standard streams.

A guard process serves one model that judges texts or frames. It answers `Ready` once, when the model is loaded, and
then each request with `Done` or `Failed`; a model that cannot be loaded is one `Failed` with the request id `load`. The
process ends when its input closes, so that a killed flow leaves none behind. No torch here: both sides import this.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cosmos_core.protocol import Done, Failed

__all__ = [
    "LOAD",
    "CheckTexts",
    "FaceDetectorSpec",
    "FindFaces",
    "FrameClassifierSpec",
    "GuardAnswer",
    "GuardReady",
    "GuardRequest",
    "GuardSpec",
    "ScoreFrames",
    "TextGuardSpec",
    "decode_answer",
    "decode_guard_request",
    "decode_spec",
]

LOAD = "load"
"""Request id of a failure to load."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TextGuardSpec(_Message):
    """A language model that answers a chat template with a verdict: Llama-Guard-3, Qwen3Guard-Gen."""

    kind: Literal["text_guard"] = "text_guard"
    folder: str
    """Model in the layout of transformers; nothing is ever downloaded."""
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_new_tokens: int = Field(default=100, ge=1)
    batch_size: int = Field(default=4, ge=1)


class FrameClassifierSpec(_Message):
    """SigLIP with a classifying head, as in `nvidia/Cosmos-Guardrail1/video_content_safety_filter`."""

    kind: Literal["frame_classifier"] = "frame_classifier"
    head: str
    """`safety_filter.pt`: weights under the key `model`."""
    encoder: str
    """Folder of the SigLIP model in the layout of transformers."""
    device: str = "cpu"
    batch_size: int = Field(default=16, ge=1)


class FaceDetectorSpec(_Message):
    """RetinaFace with a ResNet-50, as in `nvidia/Cosmos-Guardrail1/face_blur_filter`."""

    kind: Literal["face_detector"] = "face_detector"
    weights: str
    """`Resnet50_Final.pth`."""
    device: str = "cpu"
    batch_size: int = Field(default=4, ge=1)
    confidence: float = Field(default=0.7, gt=0, lt=1)
    nms: float = Field(default=0.4, gt=0, lt=1)
    """Overlap from which on the weaker of two boxes is the same face."""


GuardSpec = TextGuardSpec | FrameClassifierSpec | FaceDetectorSpec


class CheckTexts(_Message):
    """Let the model answer to each text; the result's `answers` are a list of text, finished, score."""

    type: Literal["check_texts"] = "check_texts"
    request_id: str
    texts: tuple[str, ...] = Field(min_length=1)


class ScoreFrames(_Message):
    """Score frames of a .npy file, uint8 [T, H, W, 3]; the result's `scores` are a list a class, one score a frame."""

    type: Literal["score_frames"] = "score_frames"
    request_id: str
    frames_path: str
    indices: tuple[int, ...] = Field(min_length=1)


class FindFaces(_Message):
    """Find faces in frames of a .npy file; the result's `boxes` are a list a frame of x, y, width, height, score."""

    type: Literal["find_faces"] = "find_faces"
    request_id: str
    frames_path: str
    indices: tuple[int, ...] = Field(min_length=1)


class GuardReady(_Message):
    """The model is loaded and requests are taken."""

    type: Literal["guard_ready"] = "guard_ready"
    model: str
    sha256: str
    """Of all files that the model was loaded from."""
    device: str


GuardRequest = CheckTexts | ScoreFrames | FindFaces
GuardAnswer = GuardReady | Done | Failed

_SPEC: TypeAdapter[GuardSpec] = TypeAdapter(Annotated[GuardSpec, Field(discriminator="kind")])
_REQUEST: TypeAdapter[GuardRequest] = TypeAdapter(Annotated[GuardRequest, Field(discriminator="type")])
_ANSWER: TypeAdapter[GuardAnswer] = TypeAdapter(Annotated[GuardAnswer, Field(discriminator="type")])


def decode_spec(text: str) -> GuardSpec:
    """The spec that a guard process was started with; a `ValueError` says what is wrong with it."""
    return _SPEC.validate_json(text)


def decode_guard_request(line: bytes) -> GuardRequest:
    """The request on one line; a `ValueError` says what is wrong with it."""
    return _REQUEST.validate_json(line)


def decode_answer(line: bytes) -> GuardAnswer:
    """The answer on one line; a `ValueError` says what is wrong with it."""
    return _ANSWER.validate_json(line)
