"""Which refiner a run uses, and with which settings: the field `refiner` of a run configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from tasks.chat_endpoint import ChatEndpoint

__all__ = [
    "EndpointRefinerConfig",
    "ModelRefinerConfig",
    "NoRefinerConfig",
    "RefinerConfig",
    "TemplateRefinerConfig",
    "TransformersRefinerConfig",
]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TemplateRefinerConfig(_Config):
    """The form without a model; the default."""

    kind: Literal["template"] = "template"


class NoRefinerConfig(_Config):
    """Every prompt as it is."""

    kind: Literal["none"] = "none"


class _ModelConfig(_Config):
    """What both ways of asking a model share."""

    instructions: Path = Path("configs/prompts/its-refiner.yaml")
    """What the model is told."""
    words: Path = Path("configs/prompts/its-lint.yaml")
    """Word lists that its answers are held against."""
    fallback: Literal["template", "none"] = "template"
    """What steps in where the model's answer cannot be used or the model cannot be reached."""
    send_frame: bool = True
    """Show the model the input's last frame, which the video starts from."""
    max_frame_side: int = Field(default=1024, ge=56, le=2048)
    """Longer side of that picture in pixels."""
    max_frame_kib: int = Field(default=512, ge=8, le=4096)
    """Largest JPEG that is sent."""
    max_tokens: int = Field(default=1024, ge=64, le=8192)
    """Of one answer, reasoning included."""
    corrections: int = Field(default=1, ge=0, le=3)
    """How often a wrong answer is sent back with what is wrong with it."""


class EndpointRefinerConfig(_ModelConfig):
    """A model behind an OpenAI-compatible endpoint: vLLM, NIM, SGLang with Cosmos-Reason1 or a Qwen-VL."""

    kind: Literal["endpoint"]
    endpoint: ChatEndpoint
    json_schema: bool = False
    """Ask for constrained decoding (`response_format`), where the endpoint knows it."""


class TransformersRefinerConfig(_ModelConfig):
    """A Qwen2.5-VL, such as Cosmos-Reason1-7B, in a process of its own on this machine."""

    kind: Literal["transformers"]
    path: Path
    """Folder in the layout of transformers; nothing is downloaded."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    load_timeout_s: float = Field(default=1800.0, gt=0)
    answer_timeout_s: float = Field(default=300.0, gt=0)


ModelRefinerConfig = EndpointRefinerConfig | TransformersRefinerConfig


def _named(value: object) -> Any:
    return {"kind": value} if isinstance(value, str) else value


RefinerConfig = Annotated[
    Annotated[
        TemplateRefinerConfig | NoRefinerConfig | EndpointRefinerConfig | TransformersRefinerConfig,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_named),
]
"""`template` and `none` may be written as plain words."""
