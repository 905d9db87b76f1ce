"""A client for one OpenAI-compatible chat endpoint (vLLM, NIM, SGLang): one question, one answer, typed errors.

What may pass (429, 5xx, time-outs, broken connections, a body that is no chat completion) is retried and ends as
`EndpointUnavailable`; what stays wrong (a key, an address, a request) ends at once as `BadConfig` or `BadRequest`.
Neither the key nor any text of a conversation is ever logged or put into an error.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cosmos_core.errors import BadConfig, BadRequest, EndpointUnavailable

__all__ = ["ChatAnswer", "ChatClient", "ChatEndpoint", "Message"]

Message = Mapping[str, Any]
"""One message of a conversation in the endpoint's own form: `role` and `content`."""

_MAX_BODY_BYTES = 4 << 20
_FIRST_PAUSE_S = 1.0
_RETRIED = frozenset({408, 409, 425, 429})
_log = logging.getLogger(__name__)


def _plain_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("an address such as http://127.0.0.1:8000/v1")
    _ = parts.port  # raises if it is none
    if parts.username or parts.password:
        raise ValueError("an address without credentials; name the variable that holds the key in api_key_env")
    return value.rstrip("/")


class ChatEndpoint(BaseModel):
    """Where an endpoint is, and how long to wait for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_plain_address)]
    """Its base address, up to and including `/v1`."""
    model: str = Field(min_length=1)
    """Name under which it serves the model."""
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Environment variable that holds the key; None sends none. The key itself has no place in a file."""
    timeout_s: float = Field(default=60.0, gt=0)
    """For one attempt, from connecting to the last byte."""
    max_attempts: int = Field(default=4, ge=1, le=20)
    max_pause_s: float = Field(default=30.0, ge=0)
    """Longest wait between two attempts; an endpoint that asks for more counts as unavailable."""

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc


class ChatAnswer(BaseModel):
    """What an endpoint said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    """Content of the first choice, as it came; may be empty."""
    finish_reason: str | None
    """`stop` for a whole answer, `length` for one that was cut."""
    model: str
    """Name that the endpoint gives the model that answered."""
    attempts: int
    seconds: float


class _MayPass(Exception):
    """An attempt failed in a way that may pass; `pause_s` is what the endpoint asked for."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class ChatClient:
    """Asks one endpoint; safe to share between threads. Close it when done.

    Raises:
        BadConfig: `api_key_env` names a variable that is not set.
    """

    def __init__(self, endpoint: ChatEndpoint, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.endpoint = endpoint
        self._sleep = sleep
        self._key = _key(endpoint)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx.Client(headers=headers, timeout=endpoint.timeout_s, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def ask(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = 0,
        extra: Mapping[str, Any] | None = None,
    ) -> ChatAnswer:
        """One chat completion, deterministic as far as the endpoint is.

        Args:
            extra: further fields of the request, such as `response_format` or `logprobs`.

        Raises:
            EndpointUnavailable: no usable response within `max_attempts`.
            BadConfig: the endpoint refuses the key, the address or the model.
            BadRequest: the endpoint refuses this request.
        """
        body = {
            "model": self.endpoint.model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            **({} if seed is None else {"seed": seed}),
            **(extra or {}),
        }
        started = time.monotonic()
        for attempt in range(1, self.endpoint.max_attempts + 1):
            try:
                text, finish_reason, model = _first_choice(self._post(body))
            except _MayPass as problem:
                self._pause(problem, attempt)
                continue
            seconds = time.monotonic() - started
            _log.debug("%s answered on attempt %d after %.2f s", self.endpoint.host, attempt, seconds)
            return ChatAnswer(
                text=text,
                finish_reason=finish_reason,
                model=model or self.endpoint.model,
                attempts=attempt,
                seconds=seconds,
            )
        raise AssertionError("the last attempt returns or raises")

    def _post(self, body: Mapping[str, Any]) -> bytes:
        deadline = time.monotonic() + self.endpoint.timeout_s
        try:
            with self._http.stream("POST", f"{self.endpoint.url}/chat/completions", json=body) as response:
                content = _bounded(response, deadline)
        except httpx.TimeoutException as error:
            raise _MayPass(f"no answer within {self.endpoint.timeout_s:g} s") from error
        except httpx.RequestError as error:
            raise _MayPass(f"the connection failed ({type(error).__name__})") from error
        if response.status_code in _RETRIED or response.status_code >= 500:
            raise _MayPass(f"HTTP {response.status_code}", _asked_pause(response))
        if response.status_code != 200:
            raise self._refused(response.status_code, content)
        return content

    def _pause(self, problem: _MayPass, attempt: int) -> None:
        """Wait for the next attempt, or give up."""
        if attempt == self.endpoint.max_attempts:
            raise self._unavailable(f"{problem}, {attempt} attempts") from problem
        if problem.pause_s is not None and problem.pause_s > self.endpoint.max_pause_s:
            raise self._unavailable(f"{problem}, asks to come back in {problem.pause_s:g} s") from problem
        pause_s = problem.pause_s
        if pause_s is None:
            pause_s = min(self.endpoint.max_pause_s, _FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))
        _log.warning("%s: %s; attempt %d follows in %.1f s", self.endpoint.host, problem, attempt + 1, pause_s)
        self._sleep(pause_s)

    def _unavailable(self, reason: str) -> EndpointUnavailable:
        return EndpointUnavailable(
            f"the endpoint {self.endpoint.host} cannot be used now",
            got=reason,
            expected="a chat completion",
            fix="See whether it runs and serves /v1/chat/completions.",
        )

    def _refused(self, status: int, content: bytes) -> BadRequest:
        kind, fix = BadRequest, "The endpoint says why in its own log."
        if status in (401, 403):
            variable = self.endpoint.api_key_env
            fix = f"See the key in {variable}." if variable else "Set api_key_env to the variable that holds the key."
            kind = BadConfig
        elif status in (404, 405) or 300 <= status < 400:
            kind, fix = BadConfig, f"See url and model: {self.endpoint.url} should serve {self.endpoint.model!r}."
        code = _error_code(content)
        return kind(
            f"the endpoint {self.endpoint.host} refused the request",
            got=f"HTTP {status}{f' ({code})' if code else ''}",
            fix=fix,
        )


def _key(endpoint: ChatEndpoint) -> str | None:
    if endpoint.api_key_env is None:
        return None
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise BadConfig(
            f"api_key_env: the variable {endpoint.api_key_env}",
            got="no key in it" if not key else "characters that no header can carry",
            expected=f"the key of {endpoint.host}",
            fix="Export it, or leave api_key_env out for an endpoint without a key.",
        )
    return key


def _bounded(response: httpx.Response, deadline: float) -> bytes:
    content = bytearray()
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MAX_BODY_BYTES:
            raise _MayPass(f"an answer of more than {_MAX_BODY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer came too slowly")
    return bytes(content)


def _first_choice(content: bytes) -> tuple[str, str | None, str | None]:
    """Text, finish reason and model of a chat completion."""
    try:
        document = json.loads(content)
        choice = document["choices"][0]
        text, finish_reason, model = choice["message"]["content"], choice.get("finish_reason"), document.get("model")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _MayPass("the answer is no chat completion") from error
    if not isinstance(text, str | None) or not isinstance(finish_reason, str | None):
        raise _MayPass("the answer is no chat completion")
    return text or "", finish_reason, model if isinstance(model, str) else None


def _error_code(content: bytes) -> str | None:
    # The code alone, and only if it looks like one: an endpoint's message may repeat the prompt or the key.
    try:
        error = json.loads(content)["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return code if isinstance(code, str) and re.fullmatch(r"[a-z]+(_[a-z]+){0,5}", code) else None


def _asked_pause(response: httpx.Response) -> float | None:
    """Seconds that `Retry-After` asks for, as a number or as a date."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, IndexError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
