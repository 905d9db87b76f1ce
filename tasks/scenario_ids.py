"""Names for scenarios that give none: readable, legal, and the same wherever the row stands in its manifest.

A row with an output name is called after it, any other after its input and a hash of its content. Where two different
rows would share a name, both take the next longer form of theirs; equal rows keep the same name and are duplicates.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

from cosmos_core.hashing import sha256_bytes, sha256_json
from tasks.scenario import ScenarioRow

__all__ = ["assign_ids", "slug"]

_MAX_CHARS = 128
_FALLBACK = "scenario"


def slug(text: str, *, max_chars: int = _MAX_CHARS) -> str:
    """Text in the alphabet of scenario ids; accents go, every run of other characters becomes one `-`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    legal = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).lstrip("._-")
    return legal[:max_chars].rstrip("._-") or _FALLBACK


def assign_ids(rows: Sequence[ScenarioRow | None]) -> list[str | None]:
    """One id a row, None where there is no row. Only equal or equally named rows share an id (ignoring case)."""
    forms = [_forms(row) if row is not None else ("", []) for row in rows]
    levels = [0] * len(rows)
    grew = True
    while grew:  # every round lengthens at least one of finitely many forms
        grew = False
        sharing: dict[str, list[int]] = defaultdict(list)
        for index, (_, names) in enumerate(forms):
            if names:
                sharing[names[levels[index]].lower()].append(index)
        for indices in sharing.values():
            if len({forms[index][0] for index in indices}) == 1:
                continue
            for index in indices:
                if levels[index] + 1 < len(forms[index][1]):
                    levels[index] += 1
                    grew = True
    return [names[level] if names else None for (_, names), level in zip(forms, levels, strict=True)]


def _forms(row: ScenarioRow) -> tuple[str, list[str]]:
    """What identifies a row, and its possible ids from short to long."""
    if row.scenario_id is not None:
        return f"id:{row.scenario_id.lower()}", [row.scenario_id]
    if row.output_name is not None:
        path = PurePosixPath(row.output_name)
        whole = str(path.with_suffix(""))
        digest = sha256_bytes(row.output_name.encode())
        return f"output:{row.output_name}", [slug(path.stem), slug(whole), _with_hash(whole, digest, 8)]
    digest = sha256_json(row.given())
    stem = PurePosixPath(row.input.partition("?")[0]).stem
    return f"content:{digest}", [_with_hash(stem, digest, num_chars) for num_chars in (8, 16, 64)]


def _with_hash(text: str, digest: str, num_chars: int) -> str:
    return f"{slug(text, max_chars=_MAX_CHARS - 1 - num_chars)}-{digest[:num_chars]}"
