"""What an adapter file says about itself: the manifest of an extracted adapter, or the configuration of a PEFT folder.

A training checkpoint says nothing beyond the iteration in its name, and above all not its alpha.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from cosmos_core.adapter_config import CONFIG_NAME, manifest_from_config, read_config
from cosmos_core.adapter_manifest import AdapterManifest, read_manifest

__all__ = ["declared_facts", "iteration_of"]

_ITERATION = re.compile(r"(?:^|[^0-9A-Za-z])iter_(\d{9})(?!\d)")


def declared_facts(path: Path) -> dict[str, Any]:
    """What a file or PEFT folder says about itself, by the names of the registry; silent ones are left out.

    Raises:
        AdapterMismatch: it says something that cannot be understood.
    """
    manifest = _manifest(path)
    if manifest is None:
        return {}
    fields = ("rank", "alpha", "target_modules", "iteration", "resolution", "fps", "ema")
    facts = {field: getattr(manifest, field) for field in fields}
    # The other kind of base hash is over the weights in a training checkpoint: no file has it.
    facts["parent_sha256"] = manifest.base_sha256 if manifest.base_sha256_of == "file" else None
    return {field: value for field, value in facts.items() if value not in (None, ())}


def iteration_of(path: Path) -> int | None:
    """The training iteration in `iter_000001000.pt`, or in the name of its folder."""
    found = _ITERATION.search(path.name) or _ITERATION.search(path.parent.name)
    return int(found[1]) if found else None


def _manifest(path: Path) -> AdapterManifest | None:
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():
            return None
        config = read_config(path)
        targets = config.get("target_modules")
        return manifest_from_config(config, tuple(targets) if isinstance(targets, list) else (), str(path))
    return read_manifest(path) if path.suffix == ".safetensors" else None
