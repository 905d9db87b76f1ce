"""What the registry writes down: one document for each version and one for each move of an alias, never changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cosmos_core.errors import BadRequest

__all__ = ["AliasMove", "Kind", "Reference", "RegisteredVersion", "VersionFacts", "parse_name", "parse_reference"]

DOCUMENT_VERSION = 1

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
_SHA256_START = re.compile(r"[0-9a-f]{8,64}")

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Kind(StrEnum):
    """What a registered file is for."""

    CHECKPOINT = "checkpoint"
    ADAPTER = "adapter"
    VAE = "vae"
    TEXT_ENCODER = "text_encoder"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionFacts(_Document):
    """What is known about one content of a name; the content's hash is its identity."""

    name: str
    kind: Kind
    sha256: Sha256
    num_bytes: int
    location: str
    """Absolute local path or `s3://` address."""
    parent_sha256: Sha256 | None = None
    """Base checkpoint that an adapter was trained on."""
    iteration: int | None = None
    """Training iteration."""
    rank: int | None = Field(default=None, ge=1)
    alpha: float | None = Field(default=None, gt=0)
    target_modules: tuple[str, ...] = ()
    """Empty means the six default targets."""
    resolution: str | None = None
    fps: int | None = None
    ema: bool | None = None
    """Whether these are the averaged weights of the training."""
    note: str | None = None

    @model_validator(mode="after")
    def _adapter_is_complete(self) -> Self:
        if self.kind is Kind.ADAPTER and (self.rank is None or self.alpha is None):
            raise ValueError("an adapter needs its rank and alpha")
        return self


class RegisteredVersion(VersionFacts):
    """One immutable version of a name."""

    document_version: int = DOCUMENT_VERSION
    number: int = Field(ge=1)
    """Counts the versions of a name from 1."""
    registered_at: datetime
    registered_by: str
    """user@host."""

    @property
    def id(self) -> str:
        """Exact reference to this version: `its-collision:v3`."""
        return f"{self.name}:v{self.number}"


class AliasMove(_Document):
    """One step in the history of an alias; the one with the highest sequence number says what it means now."""

    document_version: int = DOCUMENT_VERSION
    name: str
    alias: str
    sequence: int = Field(ge=1)
    from_version: int | None
    """None for the first move."""
    to_version: int
    to_sha256: Sha256
    moved_at: datetime
    moved_by: str


@dataclass(frozen=True, slots=True)
class Reference:
    """A way to name a version; at most one of alias, number and start of the hash is given."""

    name: str
    alias: str | None = None
    number: int | None = None
    sha256_start: str | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.name}:v{self.number}"
        if self.sha256_start is not None:
            return f"{self.name}:{self.sha256_start}"
        return self.name if self.alias is None else f"{self.name}@{self.alias}"


def parse_name(text: str) -> str:
    """A legal name.

    Raises:
        BadRequest: it is not one.
    """
    if not _NAME.fullmatch(text):
        raise BadRequest(
            "not a name for the registry",
            got=repr(text),
            expected="1 to 63 of a-z 0-9 . _ - beginning with a letter or digit",
        )
    return text


def parse_reference(text: str) -> Reference:
    """The parts of `name`, `name@alias`, `name:v3` or `name:<start of the SHA-256>`.

    Versions may also follow an `@`, because `:` begins the strength of an adapter in a manifest's text column. No
    alias can be taken for a version.

    Raises:
        BadRequest: the text is none of these.
    """
    name, separator, selector = re.fullmatch(r"([^@:]*)([@:]?)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    parse_name(name)
    if not separator:
        return Reference(name)
    if number := _NUMBER.fullmatch(selector):
        return Reference(name, number=int(number[1]))
    if _SHA256_START.fullmatch(selector):
        return Reference(name, sha256_start=selector)
    if separator == "@" and _NAME.fullmatch(selector):
        return Reference(name, alias=selector)
    raise BadRequest(
        "not a reference into the registry",
        got=repr(text),
        expected="name, name@alias, name:v3, or name: and at least 8 digits of the SHA-256",
    )
