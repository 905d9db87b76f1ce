"""What an adapter file says about itself, in its own header.

Training checkpoints store neither alpha nor the base that the adapter belongs to. Both are written down once, when the
adapter is extracted, and travel in the metadata of the safetensors file from then on. No torch here: a registry reads
the manifest without loading anything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cosmos_core.errors import AdapterMismatch, CheckpointMissing

__all__ = ["METADATA_KEY", "AdapterManifest", "read_header_metadata", "read_manifest"]

METADATA_KEY = "crossroads_adapter"
"""Name of the manifest in the metadata of a safetensors file."""

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class AdapterManifest(BaseModel):
    """Where an adapter comes from, and everything that its tensors cannot say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    rank: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """The update is alpha / rank * B A."""
    target_modules: tuple[str, ...]
    """Suffixes of the names of the adapted modules."""
    base_sha256: str | None = None
    """Of the base model; what was hashed is in `base_sha256_of`."""
    base_sha256_of: Literal["file", "weights"] | None = None
    """`file`: the base checkpoint's bytes. `weights`: names, dtypes, shapes and values of the base weights that lie in
    the training checkpoint, when the base file itself was not at hand."""
    resolution: str | None = None
    fps: int | None = None
    iteration: int | None = None
    """Training step, from the name of the checkpoint."""
    ema: bool | None = None
    """Whether these are the averaged weights of the training; none where the source does not say."""
    source_name: str | None = None
    """File or folder that the tensors were read from."""
    source_sha256: str | None = None
    created_by: str | None = None

    def to_metadata(self) -> dict[str, str]:
        """The manifest as metadata of a safetensors file."""
        return {METADATA_KEY: self.model_dump_json()}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], source: str) -> AdapterManifest | None:
        """The manifest in a file's metadata, or none if it has none.

        Raises:
            AdapterMismatch: there is one, and it is of another version or damaged.
        """
        if METADATA_KEY not in metadata:
            return None
        try:
            return cls.model_validate_json(metadata[METADATA_KEY])
        except ValidationError as error:
            first = error.errors()[0]
            raise AdapterMismatch(
                f"the adapter's manifest in {source} cannot be used",
                got=f"{'.'.join(map(str, first['loc'])) or 'manifest'}: {first['msg']}",
                expected="a manifest of format version 1",
                fix="Extract the adapter again with this version.",
            ) from error


def read_manifest(path: Path | str) -> AdapterManifest | None:
    """The manifest of an extracted or exported safetensors file, or none if it has none.

    Raises:
        CheckpointMissing: there is no such file.
        AdapterMismatch: it is no safetensors file, or its manifest is damaged.
    """
    return AdapterManifest.from_metadata(read_header_metadata(path), str(path))


def read_header_metadata(path: Path | str) -> dict[str, str]:
    """The free-form metadata of a safetensors file; its tensors are not read.

    A file starts with the length of its header (8 bytes, little-endian) and the header (JSON), which holds the
    metadata under `__metadata__`. Source: the safetensors format description.

    Raises:
        CheckpointMissing: there is no such file.
        AdapterMismatch: it is no safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointMissing("no such adapter file", got=path, fix="Correct the path.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if 0 < length <= _MAX_HEADER_BYTES else b""
    try:
        metadata = json.loads(header).get("__metadata__", {})
        return {str(name): str(value) for name, value in metadata.items()}
    except (ValueError, AttributeError) as error:
        raise AdapterMismatch(
            f"{path} is no safetensors file, or is cut short", got=f"{path.stat().st_size} bytes", fix="Copy it again."
        ) from error
