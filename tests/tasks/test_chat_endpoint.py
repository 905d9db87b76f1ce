"""The chat client against a real HTTP server: answers, retries, refusals, and what never leaves it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from pydantic import ValidationError

from cosmos_core.errors import BadConfig, BadRequest, EndpointUnavailable
from tasks.chat_endpoint import ChatClient, ChatEndpoint
from tests.tasks.chat_server import Reply, chat_server, completion

SECRET = "sk-very-secret"
TEXT = "A private prompt."
MESSAGES = [{"role": "user", "content": TEXT}]
BUSY = Reply(b"busy", status=429)


@pytest.fixture
def server():
    with chat_server() as running:
        yield running


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(server, pauses, monkeypatch):
    monkeypatch.setenv("ITS_KEY", SECRET)
    endpoint = ChatEndpoint(url=server.url, model="its-vl", api_key_env="ITS_KEY", timeout_s=5, max_attempts=3)
    client = ChatClient(endpoint, sleep=pauses.append)
    yield client
    client.close()


def test_a_question_and_its_answer(server, client):
    server.replies = [completion(" An answer. ", model="its-vl-7b")]
    answer = client.ask(MESSAGES, max_tokens=99, extra={"top_p": 1})
    assert (answer.text, answer.finish_reason, answer.model, answer.attempts) == (
        " An answer. ",
        "stop",
        "its-vl-7b",
        1,
    )
    assert server.paths == ["/v1/chat/completions"]
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert server.requests == [
        {"model": "its-vl", "messages": MESSAGES, "max_tokens": 99, "temperature": 0, "seed": 0, "top_p": 1}
    ]


def test_no_key_is_sent_unless_one_is_named(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.replies = [completion("x")]
    client = ChatClient(ChatEndpoint(url=server.url, model="m"))
    client.ask(MESSAGES, max_tokens=1)
    client.close()
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    "trouble",
    [
        BUSY,
        Reply(b"", status=500),
        Reply(b"", status=503),
        Reply(b"<html>gateway</html>"),
        Reply(b"{}"),
        Reply(b'{"choices": []}'),
        Reply(b'{"choices": [{"message": {"content": ["parts"]}}]}'),
        Reply(b"", status=200),
        Reply(b'{"choices": [{"mess', cut=True),
        Reply(b"not gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_what_may_pass_is_tried_again(server, client, pauses, trouble):
    server.replies = [trouble, completion("well")]
    answer = client.ask(MESSAGES, max_tokens=1)
    assert (answer.text, answer.attempts) == ("well", 2)
    assert len(pauses) == 1
    assert 0.75 <= pauses[0] <= 1.25


def test_attempts_are_bounded_and_pauses_grow(server, client, pauses):
    server.replies = [Reply(b"", status=500)]
    with pytest.raises(EndpointUnavailable, match=r"HTTP 500, 3 attempts"):
        client.ask(MESSAGES, max_tokens=1)
    assert len(server.requests) == 3
    assert pauses[1] > pauses[0]


def test_retry_after_is_obeyed_in_both_forms(server, client, pauses):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.replies = [
        Reply(status=429, headers={"Retry-After": "7"}),
        Reply(status=503, headers={"Retry-After": date}),
        completion("well"),
    ]
    assert client.ask(MESSAGES, max_tokens=1).attempts == 3
    assert pauses[0] == 7
    assert 15 < pauses[1] <= 20


def test_an_endpoint_that_wants_too_long_a_pause_is_unavailable(server, client, pauses):
    server.replies = [Reply(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(EndpointUnavailable, match="3600 s"):
        client.ask(MESSAGES, max_tokens=1)
    assert pauses == []


def test_a_silent_endpoint_times_out(server, pauses):
    server.replies = [completion("late")]
    server.replies[0].delay_s = 0.6
    client = ChatClient(ChatEndpoint(url=server.url, model="m", timeout_s=0.1, max_attempts=2), sleep=pauses.append)
    with pytest.raises(EndpointUnavailable, match=r"no answer within 0\.1 s"):
        client.ask(MESSAGES, max_tokens=1)
    client.close()
    assert len(pauses) == 1


def test_an_endpoint_that_is_not_there_is_unavailable(pauses):
    with chat_server() as gone:
        url = gone.url
    client = ChatClient(ChatEndpoint(url=url, model="m", max_attempts=2), sleep=pauses.append)
    with pytest.raises(EndpointUnavailable, match="ConnectError"):
        client.ask(MESSAGES, max_tokens=1)
    client.close()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, BadConfig), (403, BadConfig), (404, BadConfig), (307, BadConfig), (400, BadRequest), (422, BadRequest)],
)
def test_what_stays_wrong_is_not_tried_again(server, client, pauses, status, kind):
    server.replies = [Reply(json.dumps({"error": {"code": "no_such_model"}}).encode(), status=status)]
    with pytest.raises(kind, match=rf"HTTP {status} \(no_such_model\)") as caught:
        client.ask(MESSAGES, max_tokens=1)
    assert type(caught.value) is kind
    assert (len(server.requests), pauses) == (1, [])


def test_an_oversized_answer_is_not_read_to_its_end(server, client):
    server.replies = [Reply(b"x" * (5 << 20))]
    with pytest.raises(EndpointUnavailable, match="more than 4194304 bytes"):
        client.ask(MESSAGES, max_tokens=1)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
@pytest.mark.parametrize("code", [SECRET, TEXT])
def test_neither_key_nor_prompt_leaves_through_errors_and_logs(server, client, caplog, status, code):
    caplog.set_level(logging.DEBUG)
    said = {"error": {"message": f"key {SECRET} for {TEXT}", "code": code}}
    server.replies = [Reply(json.dumps(said).encode(), status=status)]
    with pytest.raises((BadRequest, EndpointUnavailable)) as caught:
        client.ask(MESSAGES, max_tokens=1)
    seen = caplog.text + str(caught.value) + repr(client.endpoint)
    assert SECRET not in seen
    assert TEXT not in seen


@pytest.mark.parametrize("value", [None, "", "  ", "schlüssel", "a\nb"])
def test_a_named_key_must_be_there(monkeypatch, value):
    monkeypatch.delenv("ITS_KEY", raising=False) if value is None else monkeypatch.setenv("ITS_KEY", value)
    with pytest.raises(BadConfig, match="ITS_KEY"):
        ChatClient(ChatEndpoint(url="http://127.0.0.1:1/v1", model="m", api_key_env="ITS_KEY"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8000",
        "ftp://host/v1",
        "http://user:pass@host/v1",
        "http://host/v1?key=1",
        "http:///v1",
        "http://h:99999",
    ],
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValidationError):
        ChatEndpoint(url=url, model="m")


def test_a_trailing_slash_changes_nothing():
    assert ChatEndpoint(url="http://h:1/v1/", model="m") == ChatEndpoint(url="http://h:1/v1", model="m")
