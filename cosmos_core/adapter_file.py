"""Adapters in files, in every layout that they come in, read into one form.

Whatever the file, the result is tensors named `<module>.lora_A` [rank, in] and `<module>.lora_B` [out, rank] with
native module names, in the file's dtype, and the manifest if the file has one. Files with a manifest are the authority
on rank and alpha: a declaration that says something else is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from cosmos_core.adapter_config import CONFIG_NAME, manifest_from_config, read_config
from cosmos_core.adapter_manifest import AdapterManifest, read_header_metadata
from cosmos_core.adapter_names import (
    DIFFUSERS_PREFIX,
    PEFT_PREFIX,
    from_diffusers,
    is_diffusers,
    shortest_targets,
    to_native,
)
from cosmos_core.checkpoint_kind import CheckpointKind, checkpoint_facts
from cosmos_core.errors import AdapterMismatch, BadRequest, CheckpointMissing
from cosmos_core.lora_state_dict import DEFAULT_TARGETS, LoraSpec, base_linears, lora_tensors, select_network
from cosmos_core.weights_file import read_state_dict

__all__ = ["DIFFUSERS_METADATA_KEY", "AdapterKind", "StoredAdapter", "read_adapter", "save_tensors", "write_adapter"]

DIFFUSERS_METADATA_KEY = "lora_adapter_metadata"
"""Where diffusers keeps the PEFT configuration in a file's metadata, every name below `transformer.`."""

_PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class AdapterKind(StrEnum):
    """Layouts of files that hold an adapter."""

    TRAINING = "LoRA training checkpoint"
    EXTRACTED = "extracted adapter"
    PEFT = "PEFT adapter folder"
    DIFFUSERS = "diffusers LoRA"
    BARE = "LoRA tensors without a manifest"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """An adapter as it lies in a file."""

    path: Path
    kind: AdapterKind
    tensors: dict[str, Tensor]
    """`<module>.lora_A` and `<module>.lora_B`; of a training checkpoint they stay on disk until they are used."""
    manifest: AdapterManifest | None
    base_weights: dict[str, Tensor] = field(default_factory=dict)
    """Of a training checkpoint: the base weights [out, in] of all linear layers, by module."""

    @property
    def rank(self) -> int:
        """The rank that the tensors have.

        Raises:
            AdapterMismatch: they have several.
        """
        return tensor_rank(self.tensors)

    @property
    def num_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules."""
        return tuple(sorted({name.rpartition(".")[0] for name in self.tensors}))

    def spec(
        self, *, rank: int | None = None, alpha: float | None = None, target_modules: tuple[str, ...] | str = ()
    ) -> LoraSpec:
        """What the adapter was trained with, from the manifest and from what the caller declares.

        Args:
            rank: declared rank; none takes the manifest's, or without one the tensors'.
            alpha: declared alpha; none takes the manifest's.
            target_modules: declared targets; empty takes the manifest's, or without one the documents' six.

        Raises:
            AdapterMismatch: declaration and manifest disagree, or nobody says alpha.
        """
        if self.manifest is None:
            if alpha is None:
                raise AdapterMismatch(
                    f"{self.path} does not say the alpha of its adapter",
                    got=str(self.kind),
                    expected="alpha",
                    fix="Declare the value of the training configuration, or extract the adapter with it once.",
                )
            return LoraSpec(rank=rank or self.rank, alpha=alpha, target_modules=target_modules or DEFAULT_TARGETS)
        for name, declared, stored in (("rank", rank, self.manifest.rank), ("alpha", alpha, self.manifest.alpha)):
            if declared is not None and declared != stored:
                raise AdapterMismatch(
                    f"the declared {name} is not the one in the manifest of {self.path}",
                    got=f"{name} {declared:g}",
                    expected=f"{name} {stored:g}",
                    fix=f"Leave {name} out of the declaration: the file knows it.",
                )
        return LoraSpec(
            rank=self.manifest.rank,
            alpha=self.manifest.alpha,
            target_modules=target_modules or self.manifest.target_modules,
        )


def read_adapter(path: Path | str, *, ema: bool = False, source_adapter: str = "default") -> StoredAdapter:
    """Read an adapter from a training checkpoint, an extracted file, a PEFT folder, or a diffusers LoRA file.

    Args:
        path: the file or folder.
        ema: take the EMA network (`net_ema.`) of a training checkpoint; other files hold one network only.
        source_adapter: name under which a training checkpoint or a bare file stores the adapter.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointMismatch: the file is damaged or holds more than tensors.
        AdapterMismatch: it holds no plain LoRA adapter, or its manifest and its tensors disagree.
    """
    path = Path(path)
    folder = _peft_folder(path)
    if folder is not None:
        stored = _read_peft(folder)
    else:
        state_dict = read_state_dict(path)
        metadata = read_header_metadata(path) if path.suffix == ".safetensors" else {}
        if is_diffusers(state_dict):
            stored = _read_diffusers(path, state_dict, metadata)
        else:
            stored = _read_native(path, state_dict, metadata, ema=ema, source_adapter=source_adapter)
    if stored.manifest is not None and stored.manifest.rank != stored.rank:
        raise AdapterMismatch(
            f"the manifest of {path} is not that of its tensors",
            got=f"tensors of rank {stored.rank}",
            expected=f"rank {stored.manifest.rank}",
            fix="The file was changed after it was made: extract or export the adapter again.",
        )
    return stored


def tensor_rank(tensors: Mapping[str, Tensor]) -> int:
    """The one rank of all matrices.

    Raises:
        AdapterMismatch: there are several.
    """
    ranks = {value.shape[0 if name.endswith("lora_A") else -1] for name, value in tensors.items()}
    if len(ranks) != 1:
        raise AdapterMismatch(
            "the adapter's matrices have several ranks",
            got=", ".join(map(str, sorted(ranks))),
            expected="one rank",
            fix="Adapters with a rank for every layer are not supported.",
        )
    return int(ranks.pop())


def write_adapter(
    path: Path | str, tensors: Mapping[str, Tensor], manifest: AdapterManifest, *, overwrite: bool = False
) -> None:
    """Write an extracted adapter: native names, the manifest in the metadata; equal content gives equal bytes.

    Raises:
        BadRequest: the file is there, or is no `.safetensors`.
    """
    save_tensors(Path(path), to_native(tensors), manifest.to_metadata(), overwrite=overwrite)


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool = False
) -> None:
    """Write a safetensors file that appears under its name only when it is complete.

    Raises:
        BadRequest: the file is there, or is no `.safetensors`.
    """
    if path.suffix != ".safetensors":
        raise BadRequest("adapters are written as safetensors", got=path.name, expected="a name in .safetensors")
    if path.exists() and not overwrite:
        raise BadRequest(f"{path} is there already", fix="Choose another name, or overwrite it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_serialised(tensors, {"format": "pt", **metadata}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _serialised(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of a safetensors file; the library writes its metadata in random order, here it is sorted."""
    content = save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, metadata)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _peft_folder(path: Path) -> Path | None:
    """The PEFT folder that a path means: itself, or the folder of its weights file."""
    folder = path if path.is_dir() else path.parent if path.name in _PEFT_WEIGHTS else None
    return folder if folder is not None and (folder / CONFIG_NAME).is_file() else None


def _read_peft(folder: Path) -> StoredAdapter:
    weights = next((folder / name for name in _PEFT_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointMissing(f"no weights in {folder}", expected=" or ".join(_PEFT_WEIGHTS))
    plain = {name.removeprefix(PEFT_PREFIX): value for name, value in read_state_dict(weights).items()}
    tensors = from_diffusers(plain) if is_diffusers(plain) else lora_tensors(plain)
    stated = manifest_from_config(read_config(folder), _targets_of(tensors), str(folder))
    metadata = read_header_metadata(weights) if weights.suffix == ".safetensors" else {}
    manifest = AdapterManifest.from_metadata(metadata, str(weights))
    return StoredAdapter(
        path=folder, kind=AdapterKind.PEFT, tensors=tensors, manifest=_agreeing(manifest, stated, folder)
    )


def _read_diffusers(path: Path, state_dict: Mapping[str, Tensor], metadata: dict[str, str]) -> StoredAdapter:
    tensors = from_diffusers(state_dict)
    manifest = AdapterManifest.from_metadata(metadata, str(path))
    if DIFFUSERS_METADATA_KEY in metadata:
        config: dict[str, Any] = json.loads(metadata[DIFFUSERS_METADATA_KEY])
        plain = {name.removeprefix(DIFFUSERS_PREFIX): value for name, value in config.items()}
        manifest = _agreeing(manifest, manifest_from_config(plain, _targets_of(tensors), str(path)), path)
    return StoredAdapter(path=path, kind=AdapterKind.DIFFUSERS, tensors=tensors, manifest=manifest)


def _read_native(
    path: Path, state_dict: Mapping[str, Tensor], metadata: dict[str, str], *, ema: bool, source_adapter: str
) -> StoredAdapter:
    manifest = AdapterManifest.from_metadata(metadata, str(path))
    if manifest is not None:
        return StoredAdapter(path=path, kind=AdapterKind.EXTRACTED, tensors=lora_tensors(state_dict), manifest=manifest)
    is_training = checkpoint_facts(state_dict).kind is CheckpointKind.LORA_TRAINING
    return StoredAdapter(
        path=path,
        kind=AdapterKind.TRAINING if is_training else AdapterKind.BARE,
        tensors=lora_tensors(state_dict, ema=ema, source_adapter=source_adapter),
        manifest=None,
        base_weights=base_linears(select_network(state_dict, ema=ema)) if is_training else {},
    )


def _targets_of(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    return shortest_targets({name.rpartition(".")[0] for name in tensors})


def _agreeing(manifest: AdapterManifest | None, stated: AdapterManifest, path: Path) -> AdapterManifest:
    """Our manifest where there is one; another program may have changed its own configuration next to it."""
    if manifest is None:
        return stated
    if (manifest.rank, manifest.alpha) != (stated.rank, stated.alpha):
        raise AdapterMismatch(
            f"the manifest and the PEFT configuration of {path} disagree",
            got=f"rank {stated.rank}, alpha {stated.alpha:g}",
            expected=f"rank {manifest.rank}, alpha {manifest.alpha:g}",
            fix="One of them was changed by hand: export the adapter again.",
        )
    return manifest
