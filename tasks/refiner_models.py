"""The two ways to put a question to a vision-language model: an HTTP endpoint, or a process on this machine."""

from __future__ import annotations

import base64
import threading
from pathlib import Path
from typing import Any, Protocol

from tasks.chat_endpoint import ChatClient
from tasks.file_versions import hash_path
from tasks.refiner_config import EndpointRefinerConfig, TransformersRefinerConfig
from tasks.refiner_frame import data_url
from tasks.refiner_instructions import Answer, Question
from tasks.refiner_process import RefinerProcess

__all__ = ["EndpointModel", "ProcessModel", "VisionModel"]

_SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("camera", "scene", "incident", "aftermath")},
    "required": ["camera", "scene", "incident", "aftermath"],
    "additionalProperties": False,
}


class VisionModel(Protocol):
    """Anything that answers a question about a picture."""

    name: str

    @property
    def identity(self) -> str:
        """Which model that is, for the record and for the cache."""
        ...

    def ask(self, question: Question, jpeg: bytes | None) -> Answer:
        """Answer, deterministically as far as that is possible.

        Raises:
            Transient: there is no answer now.
            BadRequest, BadModel: there will be none.
        """
        ...

    def close(self) -> None:
        """Let go of it; asking again takes it up again."""
        ...


class EndpointModel:
    """A model behind an OpenAI-compatible endpoint."""

    name = "endpoint"

    def __init__(self, config: EndpointRefinerConfig) -> None:
        self._config = config
        self._client: ChatClient | None = ChatClient(config.endpoint)  # a missing key must show at once
        self._lock = threading.Lock()

    @property
    def identity(self) -> str:
        return f"{self._config.endpoint.model} @ {self._config.endpoint.host}"

    def ask(self, question: Question, jpeg: bytes | None) -> Answer:
        extra: dict[str, Any] = {"top_p": 1.0}
        if self._config.json_schema:
            schema = {"name": "prompt", "strict": True, "schema": _SCHEMA}
            extra["response_format"] = {"type": "json_schema", "json_schema": schema}
        with self._lock:
            client = self._client = self._client or ChatClient(self._config.endpoint)
        said = client.ask(_messages(question, jpeg), max_tokens=self._config.max_tokens, extra=extra)
        return Answer(text=said.text, finish_reason=said.finish_reason)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client:
            client.close()


class ProcessModel:
    """A Qwen2.5-VL in a process of its own, started with the first question."""

    name = "transformers"

    def __init__(self, config: TransformersRefinerConfig, *, home: Path) -> None:
        self._config, self._home = config, home
        self._process = RefinerProcess(
            folder=config.path,
            device=config.device,
            dtype=config.dtype,
            load_timeout_s=config.load_timeout_s,
            answer_timeout_s=config.answer_timeout_s,
            log=home / "logs" / "refiner.log",
        )
        self._identity: str | None = None

    @property
    def identity(self) -> str:
        if self._identity is None:
            version = hash_path(self._config.path, self._home / "hashes").sha256 if self._config.path.is_dir() else "-"
            self._identity = f"{self._config.path.name} sha256 {version[:16]} {self._config.dtype}"
        return self._identity

    def ask(self, question: Question, jpeg: bytes | None) -> Answer:
        picture = base64.b64encode(jpeg).decode() if jpeg else None
        said = [list(pair) for pair in question.said]
        body = {"system": question.system, "user": question.user, "said": said, "jpeg": picture}
        answer = self._process.ask(body | {"max_tokens": self._config.max_tokens})
        return Answer(text=answer["text"], finish_reason=answer["finish_reason"])

    def close(self) -> None:
        self._process.close()


def _messages(question: Question, jpeg: bytes | None) -> list[dict[str, Any]]:
    """A conversation in the form of the OpenAI API, the picture before the text."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question.user}]
    if jpeg is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": data_url(jpeg)}})
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": question.system},
        {"role": "user", "content": content},
    ]
    for answer, correction in question.said:
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": correction}]
    return messages
