"""From a file to the facts that the registry keeps of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cosmos_core.errors import AdapterMismatch, BadRequest, CheckpointMissing
from tasks.declared_adapter import declared_facts, iteration_of
from tasks.file_versions import hash_path
from tasks.model_files import fetch_model, is_remote
from tasks.registry_documents import Kind, VersionFacts, parse_name

__all__ = ["GivenFacts", "describe_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenFacts:
    """What the person who registers a file says about it; None where they say nothing."""

    rank: int | None = None
    alpha: float | None = None
    target_modules: tuple[str, ...] = ()
    parent_sha256: str | None = None
    iteration: int | None = None
    resolution: str | None = None
    fps: int | None = None
    ema: bool | None = None
    note: str | None = None


def describe_file(name: str, file: str, kind: Kind, given: GivenFacts, *, home: Path) -> VersionFacts:
    """Hash a file and join what is said about it with what it says itself.

    Args:
        name: its name in the registry.
        file: a local file or folder, or one `s3://` object, which is copied below `home` to be read.
        kind: what it is for.
        given: what is said about it.
        home: where this machine keeps hashes and copies.

    Raises:
        CheckpointMissing: there is no such file.
        AdapterMismatch: an adapter's own manifest says otherwise.
        BadRequest: a fact is missing or wrong.
    """
    parse_name(name)
    path = fetch_model(file, home / "models") if is_remote(file) else Path(file).absolute()
    if not path.exists():
        raise CheckpointMissing("no such file", got=path)
    facts = asdict(given)
    if kind is Kind.ADAPTER:
        facts |= _agreed(declared_facts(path), given)
        _require_scale(facts)
    if facts["iteration"] is None:
        facts["iteration"] = iteration_of(path)
    content = hash_path(path, home / "hashes")
    location = file if is_remote(file) else str(path)
    try:
        return VersionFacts(
            name=name, kind=kind, sha256=content.sha256, num_bytes=content.num_bytes, location=location, **facts
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadRequest(
            f"{' '.join(map(str, problem['loc']))} of {name}", got=repr(problem["input"])[:100], expected=problem["msg"]
        ) from error


def _agreed(declared: dict[str, Any], given: GivenFacts) -> dict[str, Any]:
    for field, value in declared.items():
        said = getattr(given, field)
        if said not in (None, (), value):
            raise AdapterMismatch(
                f"the file declares another {field}",
                got=said,
                expected=value,
                fix="Leave the option out: what the file says of itself is used",
            )
    return declared


def _require_scale(facts: dict[str, Any]) -> None:
    missing = [field for field in ("rank", "alpha") if facts[field] is None]
    if missing:
        raise BadRequest(
            "an adapter needs its rank and alpha, and this file does not hold them",
            got=f"no {' and no '.join(missing)}",
            fix=f"Give {' and '.join(f'--{field}' for field in missing)} of the training configuration",
        )
