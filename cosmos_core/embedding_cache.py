"""Text embeddings kept by content: a prompt is encoded once, however often it is rendered.

An entry's name is the hash of everything that determines it: the prompt, the encoder's revision, the length and the
dtype. Entries are safetensors files, written to a temporary name and renamed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from cosmos_core.hashing import sha256_json

__all__ = ["CachedEmbedding", "EmbeddingCache"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEmbedding:
    """One prompt's embedding."""

    embedding: torch.Tensor
    """[1, N, D], zero beyond the prompt's own tokens."""
    num_tokens: int
    """Tokens of the whole prompt, before it was cut to N."""
    truncated: bool


@dataclass(slots=True, kw_only=True)
class EmbeddingCache:
    """Embeddings of one encoder at one length and dtype, in memory and, with a folder, on disk."""

    revision: str
    length: int
    dtype: torch.dtype
    folder: Path | None = None
    _entries: dict[str, CachedEmbedding] = field(default_factory=dict)

    def get(self, prompt: str) -> CachedEmbedding | None:
        """The embedding of a prompt, or None if it was never put."""
        key = self._key(prompt)
        if key not in self._entries and self.folder is not None:
            path = self.folder / f"{key}.safetensors"
            if path.exists():
                self._entries[key] = _read(path)
        return self._entries.get(key)

    def put(self, prompt: str, entry: CachedEmbedding) -> None:
        """Keep an embedding."""
        key = self._key(prompt)
        self._entries[key] = entry
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(entry, self.folder / f"{key}.safetensors")

    def _key(self, prompt: str) -> str:
        return sha256_json(
            {"prompt": prompt, "revision": self.revision, "length": self.length, "dtype": str(self.dtype)}
        )


def _read(path: Path) -> CachedEmbedding:
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        return CachedEmbedding(
            embedding=file.get_tensor("embedding"),
            num_tokens=int(about["num_tokens"]),
            truncated=about["truncated"] == "True",
        )


def _write(entry: CachedEmbedding, path: Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    about = {"num_tokens": str(entry.num_tokens), "truncated": str(entry.truncated)}
    save_file({"embedding": entry.embedding.contiguous()}, temporary, metadata=about)
    temporary.replace(path)
