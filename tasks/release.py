"""The release token: without one that was made for exactly these bytes, nothing is published.

The decision step, or a person's approval, makes a token for one file: scenario, job, policy and the file's SHA-256
under an HMAC of this installation's key. The publish step hashes the very bytes that it uploads and checks the token
against them. It protects against publishing what nobody decided on, another scenario's clip, and a file that was
changed or exchanged between decision and upload, by a bug or by whoever can write to the work folder or the output but
cannot read the key. It does not protect against whoever can read the key or change this code.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from cosmos_core.errors import BadConfig, ReleaseRefused
from cosmos_core.hashing import canonical_json, sha256_bytes
from tasks.verdicts import Decision

__all__ = ["KEY_NAME", "ReleaseToken", "issue_release", "release_key", "require_release"]

KEY_NAME = "release.key"
_KEY_BYTES = 32


class ReleaseToken(BaseModel):
    """The right to publish one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario_id: str
    job_id: str
    video_sha256: str
    policy_sha256: str
    basis: Literal["decision", "approval"]
    """What the right rests on: the policy alone, or a person."""
    approved_by: str | None = None
    issued_at: datetime
    signature: str = ""
    """Hexadecimal HMAC-SHA256 over all other fields."""


def release_key(home: Path) -> bytes:
    """The key of this installation, made at its first use; only its owner may read the file.

    Raises:
        BadConfig: the file can be read by others, or is no key.
    """
    path = home / KEY_NAME
    if not path.exists():
        _make_key(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise BadConfig(f"{path} can be read by others", got=f"{mode:o}", expected="600", fix=f"Run chmod 600 {path}.")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise BadConfig(f"{path} is no release key", got=f"{len(key)} bytes", expected=_KEY_BYTES, fix="Remove it.")
    return key


def issue_release(
    key: bytes, decision: Decision, *, scenario_id: str, job_id: str, video_sha256: str, approved_by: str | None = None
) -> ReleaseToken:
    """The right to publish a file that a decision lets pass, or that a person has approved.

    Raises:
        ReleaseRefused: the decision holds the file, and nobody has approved it, or it blocks it.
    """
    if decision.action == "block" or not (decision.publishes or approved_by):
        raise ReleaseRefused(
            f"{scenario_id} may not be published", got=decision.action, expected="allow, redact, or an approval"
        )
    token = ReleaseToken(
        scenario_id=scenario_id,
        job_id=job_id,
        video_sha256=video_sha256,
        policy_sha256=decision.policy_sha256,
        basis="decision" if decision.publishes else "approval",
        approved_by=None if decision.publishes else approved_by,
        issued_at=datetime.now(UTC),
    )
    return token.model_copy(update={"signature": _signature(key, token)})


def require_release(
    token: ReleaseToken | None, video: bytes, key: bytes, *, scenario_id: str, job_id: str | None, policy_sha256: str
) -> ReleaseToken:
    """Make sure that some bytes may be published as the clip of a scenario.

    Raises:
        ReleaseRefused: there is no token, this installation did not make it, or it is for another scenario, job, policy
            or for other bytes.
    """
    if token is None:
        raise ReleaseRefused(f"{scenario_id} has no release token", fix="Run the scenario again.")
    if not hmac.compare_digest(_signature(key, token), token.signature):
        raise ReleaseRefused(f"the release token of {scenario_id} was not made here", fix="Run the scenario again.")
    found = {
        "scenario": scenario_id,
        "job": job_id,
        "policy": policy_sha256,
        "SHA-256 of the file": sha256_bytes(video),
    }
    released = {
        "scenario": token.scenario_id,
        "job": token.job_id,
        "policy": token.policy_sha256,
        "SHA-256 of the file": token.video_sha256,
    }
    for what, value in found.items():
        if value != released[what]:
            raise ReleaseRefused(
                f"the release of {scenario_id} is for another {what}",
                got=value,
                expected=released[what],
                fix="The file was changed after it was checked, or belongs elsewhere: run the scenario again.",
            )
    return token


def _signature(key: bytes, token: ReleaseToken) -> str:
    text = canonical_json(token.model_dump(mode="json", exclude={"signature"}))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _make_key(path: Path) -> None:
    """Write a new key so that it appears whole, and once if several processes try."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
