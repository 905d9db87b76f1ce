"""Credentials of S3 from a secret block: complete or refused, and never repeated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prefect.blocks.system import Secret

from cosmos_core.errors import BadConfig
from tasks.storage import open_store
from tasks.storage_credentials import _from_block, s3_options

SECRET = "not-for-anyone-else"


@pytest.fixture
def block(monkeypatch):
    """The content of the block that the environment names."""
    content = SimpleNamespace(value=None, asked=0)

    def load(name, **_):
        content.asked += 1
        if name != "results":
            raise ValueError(f"Unable to find block document named {name}")
        return SimpleNamespace(get=lambda: content.value)

    monkeypatch.setattr(Secret, "load", load)
    monkeypatch.setenv("CROSSROADS_S3_SECRET", "results")
    _from_block.cache_clear()
    yield content
    _from_block.cache_clear()


def test_without_a_block_the_environment_says_it_all(monkeypatch):
    monkeypatch.delenv("CROSSROADS_S3_SECRET", raising=False)
    assert s3_options() == {}


def test_a_block_gives_the_options_and_is_asked_once(block):
    block.value = {
        "aws_access_key_id": "id",
        "aws_secret_access_key": SECRET,
        "aws_session_token": "token",
        "endpoint_url": "http://minio:9000",
    }
    expected = {"key": "id", "secret": SECRET, "token": "token", "client_kwargs": {"endpoint_url": "http://minio:9000"}}
    assert s3_options() == expected
    assert s3_options() == expected
    assert block.asked == 1


def test_a_store_uses_it(block, bucket, s3_endpoint, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    block.value = {"aws_access_key_id": "id", "aws_secret_access_key": SECRET, "endpoint_url": s3_endpoint}
    store = open_store(f"{bucket}/out")
    store.publish_bytes(b"x", "a", content_type="text/plain")
    assert store.read_bytes("a") == b"x"
    assert SECRET not in repr(store)


@pytest.mark.parametrize("value", [SECRET, {"aws_secret_access_key": SECRET}, {"password": SECRET}, 7])
def test_a_block_with_anything_else_is_refused_without_its_content(block, value):
    block.value = value
    with pytest.raises(BadConfig, match=r"results does not hold the credentials.*aws_access_key_id") as caught:
        s3_options()
    assert SECRET not in str(caught.value)


def test_a_block_that_is_not_there_is_named(block, monkeypatch):
    monkeypatch.setenv("CROSSROADS_S3_SECRET", "other")
    with pytest.raises(BadConfig, match=r"no such secret block.*other.*CROSSROADS_S3_SECRET"):
        s3_options()
