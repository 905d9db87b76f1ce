"""What is said between a task and a generation worker: one JSON object a line, over a Unix socket.

A worker is one torchrun group; its rank 0 listens. The client sends requests, one at a time; the worker answers with
any number of events, the last of which is `Done` or `Failed`. No torch here: both sides import this module.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from cosmos_core.errors import CrossroadsError, WorkerLost, from_payload
from cosmos_core.memory_mode import WorkerSaving

__all__ = [
    "AdapterFile",
    "AdapterStrength",
    "Alive",
    "Done",
    "EncodePrompts",
    "Event",
    "Failed",
    "GenerateVideo",
    "LoadModel",
    "Loading",
    "Progress",
    "Ready",
    "Request",
    "Stop",
    "WorkerSpec",
    "decode_event",
    "decode_request",
    "encode",
]


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AdapterFile(_Message):
    """A LoRA adapter to load, with what its file cannot say itself."""

    name: str
    path: str
    sha256: str
    rank: int | None = None
    """None takes what the file's manifest says; without a manifest, the documents' default 16."""
    alpha: float | None = None
    """Likewise. The scale of the update is alpha / rank, and training checkpoints do not store alpha."""
    target_modules: tuple[str, ...] = ()
    """Empty means the manifest's, or without a manifest the six default targets."""
    source_adapter: str = "default"
    """Name under which a training checkpoint stores the adapter."""
    allow_inert: bool = False
    """Accept an adapter that changes nothing."""


class AdapterStrength(_Message):
    """An adapter of the worker as one scenario uses it."""

    name: str
    strength: float = 1.0


class WorkerSpec(_Message):
    """Everything a worker loads once. Written to a file that `python -m cosmos_core.worker` is started with."""

    model: str
    checkpoint: str
    vae: str
    text_encoder: str
    adapters: tuple[AdapterFile, ...] = ()
    checkpoint_sha256: str | None = None
    """Of the checkpoint, to recognise adapters that were trained on another one."""
    merge_adapters: bool = True
    """Add the adapters of a scenario into the weights; unmerged they cost time in every forward."""
    rope_table: Literal["auto", "float32"] = "auto"
    """`auto` follows the weights, as the reference does; `float32` computes exact rotary angles."""
    quantize: Literal["none", "fp8", "int8"] = "none"
    """Keep the large base weights in 8 bits, with adapters unmerged on top."""
    savings: tuple[WorkerSaving, ...] = ()
    """The memory mode, see `cosmos_core.memory_mode`."""
    ema: bool = False
    text_encoder_sha256: str
    """Revision of the text encoder, part of the key of every cached embedding."""
    embedding_cache: str | None = None
    """Folder of text embeddings kept between workers; none keeps them in memory only."""
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    socket_path: str
    connect_timeout_s: float = 60.0
    """A worker that nobody connects to for this long stops by itself."""
    client_pid: int | None = None
    """Process that started the worker; one that is gone before it connected ends the wait at once."""
    text_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the text encoder; float32 as the reference runs it by default."""
    num_threads: int | None = None


class EncodePrompts(_Message):
    """Compute and keep the text embeddings of a whole shard, before the transformer needs the memory."""

    type: Literal["encode_prompts"] = "encode_prompts"
    request_id: str
    prompts: tuple[str, ...]


class LoadModel(_Message):
    """Load transformer, adapters and VAE; the result holds parameter counts and the proof that each adapter acts."""

    type: Literal["load_model"] = "load_model"
    request_id: str = "load"


class GenerateVideo(_Message):
    """Generate one clip and write its frames, losslessly, as uint8 [T, H, W, 3] to `frames_path` (.npy)."""

    type: Literal["generate_video"] = "generate_video"
    request_id: str
    input_path: str
    """Picture, video, or decoded frames uint8 [T, H, W, 3] (.npy)."""
    prompt: str
    negative_prompt: str
    """Empty turns guidance off: one forward a step instead of two."""
    seed: int
    guidance: float
    num_steps: int
    num_conditional_frames: int
    num_chunks: int = 1
    """More than one makes a long video; finished chunks lie beside `frames_path` and are not made again."""
    resolution: str
    fps: int
    aspect_ratio: str
    adapters: tuple[AdapterStrength, ...] = ()
    frames_path: str


class Stop(_Message):
    """Finish: the worker tears down and its processes end."""

    type: Literal["stop"] = "stop"
    request_id: str = "stop"


class Loading(_Message):
    """The worker is busy with setting up `part`."""

    type: Literal["loading"] = "loading"
    part: str


class Ready(_Message):
    """All processes of the worker are up and it takes requests; no model is loaded yet."""

    type: Literal["ready"] = "ready"
    pids: tuple[int, ...]
    device: str
    environment: dict[str, str]


class Alive(_Message):
    """A heart-beat, sent every few seconds whatever the worker is doing."""

    type: Literal["alive"] = "alive"


class Progress(_Message):
    """Step `step` of `num_steps` of the named stage is done."""

    type: Literal["progress"] = "progress"
    request_id: str
    stage: str
    step: int
    num_steps: int


class Done(_Message):
    """The request succeeded; `result` says what was made and how long each part took."""

    type: Literal["done"] = "done"
    request_id: str
    result: dict[str, Any]


class Failed(_Message):
    """The request failed; the worker itself goes on, or says that it ends."""

    type: Literal["failed"] = "failed"
    request_id: str
    error: dict[str, Any]
    worker_ends: bool = False
    """Its processes could not be brought back together, and exit; the next request needs another worker."""

    def to_error(self) -> CrossroadsError:
        """The error that the worker raised."""
        return from_payload(self.error)


Request = EncodePrompts | LoadModel | GenerateVideo | Stop
Event = Loading | Ready | Alive | Progress | Done | Failed

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def encode(message: BaseModel) -> bytes:
    """One message as a line of JSON."""
    return message.model_dump_json().encode() + b"\n"


def decode_request(line: bytes) -> Request:
    """The request on one line; a `ValueError` says what is wrong with it."""
    return _REQUEST.validate_json(line)


def decode_event(line: bytes) -> Event:
    """The event on one line.

    Raises:
        WorkerLost: the line is not an event, so the other side is not a worker of this version.
    """
    try:
        return _EVENT.validate_json(line)
    except ValueError as error:
        raise WorkerLost("a worker sent something that is not an event", got=line[:200]) from error
