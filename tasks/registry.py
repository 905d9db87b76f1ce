"""The registry of checkpoints and adapters: names, immutable versions, movable aliases, as plain files.

    versions/<name>/v<number>.json                   a version, written once
    aliases/<name>/<alias>/<sequence>.json           a move of an alias; the last one holds

There is no index and no lock. Every document is created under a name that must not exist yet, so of two writers that
want the same number one is refused, looks again and takes the next; nothing is ever overwritten, and a reader sees
whole documents only.
"""

from __future__ import annotations

import getpass
import os
import random
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cosmos_core.errors import BadConfig, BadRequest, CheckpointMissing, StorageUnavailable
from tasks.registry_documents import (
    AliasMove,
    Reference,
    RegisteredVersion,
    VersionFacts,
    parse_name,
    parse_reference,
)
from tasks.storage import Store, open_store

__all__ = ["DEFAULT_FOLDER", "Registry", "find_registry", "open_registry"]

DEFAULT_FOLDER = "registry"
"""Used below the working folder if it is there, or when the first version is added."""

_DEFAULT_ALIAS = "default"
"""What a bare name means, if the name has such an alias."""
_MAX_ATTEMPTS = 200
"""Each lost race means that another writer got on; this many in a row mean that something else is wrong."""

_Model = TypeVar("_Model", bound=BaseModel)


def find_registry(option: str | None = None, configured: str | None = None) -> str | None:
    """Where the registry is: the option, else `CROSSROADS_REGISTRY`, else the configuration, else `registry` here.

    Returns:
        A folder or an `s3://` prefix; None if none is named and there is no folder `registry`.
    """
    named = option or os.environ.get("CROSSROADS_REGISTRY") or configured
    return named or (DEFAULT_FOLDER if Path(DEFAULT_FOLDER).is_dir() else None)


def open_registry(place: str, *, create: bool = False) -> Registry:
    """The registry at a place.

    Args:
        place: local folder or `s3://` prefix.
        create: make a local folder that is not there.

    Raises:
        BadConfig: there is no such folder or bucket.
    """
    store = open_store(place, for_writing=create)
    if store.is_local and not Path(store.root).is_dir():
        raise BadConfig("there is no registry", got=place, fix="`crossroads registry add` makes one")
    return Registry(store)


@dataclass(frozen=True, slots=True)
class Registry:
    """Versions and aliases below one place."""

    store: Store

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted({PurePosixPath(document).parts[1] for document in self.store.list("versions")}))

    def versions(self, name: str) -> tuple[RegisteredVersion, ...]:
        """All versions of a name, oldest first; none if there is no such name."""
        documents = self.store.list(f"versions/{parse_name(name)}")
        found = (self._read(document, RegisteredVersion) for document in documents)
        return tuple(sorted((version for version in found if version), key=lambda version: version.number))

    def register(self, facts: VersionFacts) -> tuple[RegisteredVersion, bool]:
        """Give a content the next version number of its name.

        Returns:
            The version, and whether it is new: the same content has one version for good.

        Raises:
            BadRequest: the content is registered with other facts.
        """
        parse_name(facts.name)
        for _ in range(_MAX_ATTEMPTS):
            versions = self.versions(facts.name)
            if known := next((version for version in versions if version.sha256 == facts.sha256), None):
                _require_same_facts(facts, known)
                return known, False
            version = RegisteredVersion(
                **facts.model_dump(),
                number=versions[-1].number + 1 if versions else 1,
                registered_at=datetime.now(UTC),
                registered_by=_who(),
            )
            # Numbers have no gaps, so whoever registers the same content at the same time wants this very name.
            if self._create(f"versions/{version.name}/v{version.number}.json", version):
                return version, True
            _pause()
        raise StorageUnavailable(f"{facts.name} could not be registered", got=f"{_MAX_ATTEMPTS} lost races")

    def resolve(self, reference: str) -> RegisteredVersion:
        """The version that a reference means now.

        Raises:
            BadRequest: the reference is malformed or means several versions.
            CheckpointMissing: it means none.
        """
        parsed = parse_reference(reference)
        versions = self.versions(parsed.name)
        if not versions:
            known = ", ".join(self.names()) or "nothing yet"
            raise self._missing("no such name in the registry", parsed, known)
        if parsed.number is not None:
            chosen = [version for version in versions if version.number == parsed.number]
        elif parsed.sha256_start is not None:
            chosen = [version for version in versions if version.sha256.startswith(parsed.sha256_start)]
        else:
            chosen = self._by_alias(parsed, versions)
        if not chosen:
            raise self._missing("no such version in the registry", parsed, self._choices(parsed.name, versions))
        if len(chosen) > 1:
            raise BadRequest(
                f"{parsed} may mean several versions",
                expected=f"one of {self._choices(parsed.name, chosen)}",
                fix=f"Name one, or say what the bare name means: crossroads registry alias {parsed.name}@default ...",
            )
        return chosen[0]

    def move_alias(self, name: str, alias: str, version: RegisteredVersion) -> AliasMove:
        """Let an alias mean a version from now on; if it does already, nothing is written.

        Raises:
            BadRequest: the alias is no legal one, or the version is another name's.
        """
        parsed = parse_reference(f"{name}@{alias}")
        if parsed.alias is None:
            raise BadRequest("not a name for an alias", got=alias, expected="one that cannot be taken for a version")
        if version.name != name:
            raise BadRequest(f"an alias of {name} cannot mean a version of another name", got=version.id)
        for _ in range(_MAX_ATTEMPTS):
            current = self.alias(name, alias)
            if current and current.to_version == version.number:
                return current
            move = AliasMove(
                name=name,
                alias=alias,
                sequence=current.sequence + 1 if current else 1,
                from_version=current.to_version if current else None,
                to_version=version.number,
                to_sha256=version.sha256,
                moved_at=datetime.now(UTC),
                moved_by=_who(),
            )
            if self._create(f"aliases/{name}/{alias}/{move.sequence:09d}.json", move):
                return move
            _pause()
        raise StorageUnavailable(f"{parsed} could not be moved", got=f"{_MAX_ATTEMPTS} lost races")

    def aliases(self, name: str) -> tuple[AliasMove, ...]:
        """The last move of each alias of a name, by alias."""
        documents = self.store.list(f"aliases/{parse_name(name)}")
        moved = sorted({PurePosixPath(document).parts[2] for document in documents})
        return tuple(move for alias in moved if (move := self.alias(name, alias)))

    def alias(self, name: str, alias: str) -> AliasMove | None:
        """The last move of an alias, or None if there is no such alias."""
        documents = self.store.list(f"aliases/{name}/{alias}")
        return self._read(documents[-1], AliasMove) if documents else None

    def history(self, name: str, alias: str) -> tuple[AliasMove, ...]:
        """All moves of an alias, oldest first."""
        moves = (self._read(document, AliasMove) for document in self.store.list(f"aliases/{name}/{alias}"))
        return tuple(move for move in moves if move)

    def _by_alias(self, parsed: Reference, versions: tuple[RegisteredVersion, ...]) -> list[RegisteredVersion]:
        move = self.alias(parsed.name, parsed.alias or _DEFAULT_ALIAS)
        if move is None:
            return [] if parsed.alias else list(versions)
        return [version for version in versions if version.number == move.to_version]

    def _choices(self, name: str, versions: Iterable[RegisteredVersion]) -> str:
        aliases = [f"{name}@{move.alias}" for move in self.aliases(name)]
        return ", ".join([*aliases, *(f"{version.id} ({version.sha256[:12]})" for version in versions)])

    def _missing(self, what: str, reference: Reference, expected: str) -> CheckpointMissing:
        return CheckpointMissing(
            what, got=reference, expected=expected, fix=f"See `crossroads registry list --registry {self.store.uri}`"
        )

    def _create(self, name: str, document: BaseModel) -> bool:
        text = document.model_dump_json(indent=2) + "\n"
        return self.store.publish_new_bytes(text.encode(), name, content_type="application/json")

    def _read(self, name: str, model: type[_Model]) -> _Model | None:
        data = self.store.read_bytes(name)
        if data is None:
            return None
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            problem = error.errors()[0]
            raise BadConfig(
                f"{self.store.uri_of(name)} is not a document of this registry",
                got=f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                fix="It was changed by hand, or written by a newer Crossroads",
            ) from error


def _require_same_facts(facts: VersionFacts, known: RegisteredVersion) -> None:
    """Refuse to drop a fact in silence; what the caller leaves open is taken as registered."""
    for field in ("kind", "rank", "alpha", "target_modules", "parent_sha256", "iteration", "resolution", "fps", "ema"):
        given, registered = getattr(facts, field), getattr(known, field)
        if given not in (None, ()) and given != registered:
            raise BadRequest(
                f"this content is registered as {known.id} with another {field}",
                got=given,
                expected=registered,
                fix="Versions never change. If the registered value is wrong, register the file under another name",
            )


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in the password file
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _pause() -> None:
    time.sleep(random.uniform(0.0, 0.02))
