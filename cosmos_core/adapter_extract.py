"""Take the adapter out of a training checkpoint: from gigabytes to megabytes, and alpha said once and for all."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cosmos_core.adapter_file import AdapterKind, read_adapter, tensor_rank, write_adapter
from cosmos_core.adapter_manifest import AdapterManifest
from cosmos_core.adapter_names import shortest_targets
from cosmos_core.checkpoint import base_network
from cosmos_core.checkpoint_kind import CheckpointKind, checkpoint_facts, network_prefixes
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.hashing import sha256_file
from cosmos_core.lora_state_dict import LoraSpec, check_adapter_tensors, shapes_of_targets
from cosmos_core.weights_file import read_state_dict

__all__ = ["created_by", "extract_adapter", "import_adapter", "weights_sha256"]

_ITERATION = re.compile(r"iter_(\d+)")
_VARIANT = re.compile(r"(?P<resolution>\d+)p[-_](?P<fps>\d+)fps")
_SHOWN = 4


def extract_adapter(
    training_checkpoint: Path | str,
    out: Path | str,
    *,
    alpha: float,
    rank: int | None = None,
    target_modules: tuple[str, ...] | str = (),
    base: Path | str | None = None,
    ema: bool = False,
    source_adapter: str = "default",
    resolution: str | None = None,
    fps: int | None = None,
    overwrite: bool = False,
) -> AdapterManifest:
    """Write the adapter of a training checkpoint, with its manifest, as a small safetensors file.

    Args:
        training_checkpoint: what LoRA training wrote.
        out: file to write.
        alpha: of the training configuration; the checkpoint does not store it.
        rank: checked if given; otherwise read from the shapes.
        target_modules: checked if given; otherwise read from the names.
        base: base checkpoint that the training started from. Its SHA-256 goes into the manifest, after its weights
            have been compared with those in the training checkpoint. Without it, the base weights inside are hashed.
        ema: take the EMA network.
        source_adapter: name under which the checkpoint stores the adapter.
        resolution: of the training; otherwise from the file names (`720p-16fps`), if they say it.
        fps: likewise.
        overwrite: replace `out` if it is there.

    Raises:
        CheckpointMissing: a file is not there.
        CheckpointMismatch: a file is damaged, or the base is no base checkpoint.
        AdapterMismatch: the checkpoint's adapter is not what was declared, or was trained on another base.
        BadRequest: `out` is there already, or has an unusable name.
    """
    source = Path(training_checkpoint)
    _refuse_existing(Path(out), overwrite)
    stored = read_adapter(source, ema=ema, source_adapter=source_adapter)
    if stored.kind is not AdapterKind.TRAINING:
        raise AdapterMismatch(
            f"{source} is no training checkpoint",
            got=str(stored.kind),
            expected=str(AdapterKind.TRAINING),
            fix="Import it instead, with `crossroads adapter import`.",
        )
    linears = {name: (int(weight.shape[0]), int(weight.shape[1])) for name, weight in stored.base_weights.items()}
    targets = target_modules or shortest_targets(stored.modules, linears)
    spec = LoraSpec(rank=rank or stored.rank, alpha=alpha, target_modules=targets)
    check_adapter_tensors(stored.tensors, shapes_of_targets(linears, spec), spec)
    base_sha256, base_of = _base_identity(source, Path(base) if base else None)
    resolution, fps = _variant(resolution, fps, source, Path(base) if base else None)
    manifest = AdapterManifest(
        rank=spec.rank,
        alpha=spec.alpha,
        target_modules=spec.targets,
        base_sha256=base_sha256,
        base_sha256_of=base_of,
        resolution=resolution,
        fps=fps,
        iteration=_iteration(source),
        ema=ema,
        source_name=source.name,
        source_sha256=sha256_file(source) if source.is_file() else None,
        created_by=created_by(),
    )
    write_adapter(out, stored.tensors, manifest, overwrite=overwrite)
    return manifest


def import_adapter(
    source: Path | str,
    out: Path | str,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    base_sha256: str | None = None,
    source_adapter: str = "default",
    overwrite: bool = False,
) -> AdapterManifest:
    """Write a PEFT folder, a diffusers LoRA, or bare LoRA tensors as an extracted adapter; the tensors stay bitwise.

    Args:
        source: what to read.
        out: file to write.
        rank: checked if given.
        alpha: needed where the source does not say it, checked where it does.
        base_sha256: of the base checkpoint file, if it is known.
        source_adapter: name under which bare tensors are stored.
        overwrite: replace `out` if it is there.

    Raises:
        AdapterMismatch: the source is no plain LoRA adapter, says something else, or nobody says alpha.
        BadRequest: `out` is there already, or has an unusable name.
    """
    _refuse_existing(Path(out), overwrite)
    stored = read_adapter(source, source_adapter=source_adapter)
    if stored.kind is AdapterKind.TRAINING:
        raise AdapterMismatch(
            f"{source} is a training checkpoint",
            got=str(stored.kind),
            expected="an adapter alone",
            fix="Extract it instead, with `crossroads adapter extract`.",
        )
    tensor_rank(stored.tensors)
    targets = stored.manifest.target_modules if stored.manifest else shortest_targets(stored.modules)
    spec = stored.spec(rank=rank, alpha=alpha, target_modules=targets)
    manifest = stored.manifest
    if manifest is None or manifest.created_by is None:  # not ours: note where it comes from
        file = stored.path if stored.path.is_file() else next(stored.path.glob("adapter_model.*"))
        manifest = AdapterManifest(
            rank=spec.rank,
            alpha=spec.alpha,
            target_modules=spec.targets,
            source_name=stored.path.name,
            source_sha256=sha256_file(file),
            created_by=created_by(),
        )
    if base_sha256 is not None:
        manifest = manifest.model_copy(update={"base_sha256": base_sha256, "base_sha256_of": "file"})
    write_adapter(out, stored.tensors, manifest, overwrite=overwrite)
    return manifest


def created_by() -> str:
    """This program and its version."""
    return f"crossroads {importlib.metadata.version('crossroads')}"


def weights_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, in the order of the names; files of other types give the same."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_existing(out: Path, overwrite: bool) -> None:
    # Before gigabytes are read and hashed.
    if out.exists() and not overwrite:
        raise BadRequest(f"{out} is there already", fix="Choose another name, or overwrite it.")


def _iteration(source: Path) -> int | None:
    match = _ITERATION.search(source.name)
    return int(match[1]) if match else None


def _variant(resolution: str | None, fps: int | None, source: Path, base: Path | None) -> tuple[str | None, int | None]:
    names = [source.name, *(parent.name for parent in source.parents), base.name if base else ""]
    match = next((match for name in names if (match := _VARIANT.search(name))), None)
    if match is None:
        return resolution, fps
    return resolution or match["resolution"], fps or int(match["fps"])


def _base_identity(source: Path, base: Path | None) -> tuple[str, Literal["file", "weights"]]:
    """Hash of the base, and of what it is."""
    state_dict = read_state_dict(source)
    has_live = "net_ema." not in network_prefixes(state_dict) or "net." in network_prefixes(state_dict)
    # The live network holds the frozen base exactly; its moving average went through float32 arithmetic.
    inside = base_network(state_dict, ema=not has_live, lora_base=True, source=str(source))
    if base is None:
        return weights_sha256(inside), "weights"
    if has_live:
        _require_same(inside, base)
    if not base.is_file():  # a folder of shards
        return weights_sha256(inside), "weights"
    return sha256_file(base), "file"


def _require_same(inside: Mapping[str, Tensor], base: Path) -> None:
    """The training checkpoint's base is this base, up to the rounding to the training's dtype."""
    state_dict = read_state_dict(base)
    if checkpoint_facts(state_dict).kind is CheckpointKind.LORA_TRAINING:
        raise AdapterMismatch(
            f"{base} is no base checkpoint", got=str(CheckpointKind.LORA_TRAINING), expected=str(CheckpointKind.BASE)
        )
    outside = base_network(state_dict, source=str(base))
    wrong = [
        name
        for name in sorted(inside.keys() | outside.keys())
        if name not in inside or name not in outside or not _equal(inside[name], outside[name])
    ]
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        raise AdapterMismatch(
            f"the adapter was trained on another base than {base}",
            got=f"other weights in {shown}",
            expected=f"{len(inside)} equal tensors",
            fix="Give the base checkpoint that the training started from, or none: then the base weights inside are "
            "hashed.",
        )


def _equal(inside: Tensor, outside: Tensor) -> bool:
    return inside.shape == outside.shape and torch.equal(inside, outside.to(inside.dtype))
