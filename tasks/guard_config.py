"""Which model makes which check: the part of a run's configuration that names guard models.

Nothing is configured by default: the lexicon and the cascades need no weights. What a policy asks for and nothing here
makes is recorded as unavailable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cosmos_core.guard_protocol import FaceDetectorSpec, FrameClassifierSpec, TextGuardSpec
from cosmos_core.hashing import sha256_json
from tasks.chat_endpoint import ChatEndpoint
from tasks.guard_answers import AnswerForm

__all__ = ["ContentGuard", "EndpointFrames", "EndpointGuard", "FaceGuard", "GuardConfig", "ModelGuard", "TextGuard"]

_SIGLIP = "siglip-so400m-patch14-384"
_GUARDRAIL = Path("checkpoints/nvidia/Cosmos-Guardrail1")


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EndpointGuard(_Config):
    """A guard model behind an OpenAI-compatible address: vLLM, NIM, SGLang."""

    kind: Literal["endpoint"]
    endpoint: ChatEndpoint
    form: AnswerForm
    """How the model answers: its own trained form, or `policy_json` for a general model that is told the policy."""
    revision: str | None = None
    """Version of the served model, for the record: an endpoint does not say it."""
    max_tokens: int = Field(default=256, ge=1)


class EndpointFrames(EndpointGuard):
    """A model that sees, asked about some frames of a clip at once. Weaker than a trained classifier."""

    form: Literal["policy_json"] = "policy_json"
    max_frames: int = Field(default=8, ge=1, le=32)
    """Evenly spaced, first and last included."""
    long_side: int = Field(default=768, ge=64)
    """Frames are made smaller until their longer side has this many pixels."""


class ModelGuard(_Config):
    """A guard model from a local folder, run by transformers in a process of its own."""

    kind: Literal["transformers"]
    folder: Path
    """Such as `checkpoints/meta-llama/Llama-Guard-3-8B` or `checkpoints/Qwen/Qwen3Guard-Gen-0.6B`."""
    form: AnswerForm
    device: str = "cpu"
    """`cpu`, `cuda` or `cuda:1`. A GPU that generates as well needs the memory for both."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    max_tokens: int = Field(default=100, ge=1)

    def spec(self) -> TextGuardSpec:
        """What the process is started with."""
        return TextGuardSpec(
            folder=str(self.folder), device=self.device, dtype=self.dtype, max_new_tokens=self.max_tokens
        )


class ContentGuard(_Config):
    """The SigLIP classifier of `nvidia/Cosmos-Guardrail1`, run in a process of its own."""

    kind: Literal["siglip"]
    head: Path = _GUARDRAIL / "video_content_safety_filter" / "safety_filter.pt"
    encoder: Path | None = None
    """Folder of the SigLIP model; default `checkpoints/google/siglip-so400m-patch14-384`, or where the reference's
    loader keeps it, as a cache of the hub beside the head."""
    device: str = "cpu"
    batch_size: int = Field(default=16, ge=1)

    def spec(self) -> FrameClassifierSpec:
        """What the process is started with."""
        return FrameClassifierSpec(
            head=str(self.head), encoder=str(self.encoder_folder()), device=self.device, batch_size=self.batch_size
        )

    def encoder_folder(self) -> Path:
        """Where the encoder lies, or should."""
        usual = Path("checkpoints/google") / _SIGLIP
        if self.encoder is not None or usual.is_dir():
            return self.encoder or usual
        snapshots = sorted((self.head.parent / f"models--google--{_SIGLIP}" / "snapshots").glob("*/config.json"))
        return snapshots[0].parent if len(snapshots) == 1 else usual


class FaceGuard(_Config):
    """RetinaFace of `nvidia/Cosmos-Guardrail1`, run in a process of its own, instead of the cascade."""

    kind: Literal["retinaface"]
    weights: Path = _GUARDRAIL / "face_blur_filter" / "Resnet50_Final.pth"
    device: str = "cpu"
    batch_size: int = Field(default=4, ge=1)
    confidence: float = Field(default=0.7, gt=0, lt=1)
    nms: float = Field(default=0.4, gt=0, lt=1)

    def spec(self) -> FaceDetectorSpec:
        """What the process is started with."""
        return FaceDetectorSpec(
            weights=str(self.weights),
            device=self.device,
            batch_size=self.batch_size,
            confidence=self.confidence,
            nms=self.nms,
        )


TextGuard = Annotated[EndpointGuard | ModelGuard, Field(discriminator="kind")]


class GuardConfig(_Config):
    """Guard models by the check that they make."""

    text: dict[str, TextGuard] = {}
    """By the name of the check in the policy, such as `text.guard_model`."""
    content: Annotated[ContentGuard | EndpointFrames | None, Field(discriminator="kind")] = None
    """Makes `input.content` and `video.content`."""
    faces: FaceGuard | None = None
    """Finds the faces for `input.redaction` and `video.redaction`; None leaves it to OpenCV's cascade."""
    load_timeout_s: float = Field(default=900.0, gt=0)
    """Until a local model is loaded."""
    timeout_s: float = Field(default=600.0, gt=0)
    """For one request to a local model."""

    @property
    def sha256(self) -> str:
        """Hash of what is configured: another guard is another outcome."""
        return sha256_json(self.model_dump(mode="json"))
