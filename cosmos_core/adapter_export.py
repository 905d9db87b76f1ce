"""Adapters for other programs: a PEFT folder, or a file with diffusers' names. Reading either back is exact."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from cosmos_core.adapter_config import CONFIG_NAME, lora_config
from cosmos_core.adapter_file import DIFFUSERS_METADATA_KEY, StoredAdapter, save_tensors
from cosmos_core.adapter_manifest import AdapterManifest
from cosmos_core.adapter_names import DIFFUSERS_PREFIX, shortest_targets, to_diffusers, to_diffusers_module, to_peft
from cosmos_core.errors import BadRequest
from cosmos_core.lora_state_dict import LoraSpec

__all__ = ["ExportFormat", "export_adapter", "export_diffusers", "export_peft"]


class ExportFormat(StrEnum):
    """Layouts that other programs read."""

    PEFT = "peft"
    DIFFUSERS = "diffusers"


def export_adapter(
    stored: StoredAdapter,
    out: Path | str,
    layout: ExportFormat,
    *,
    rank: int | None = None,
    alpha: float | None = None,
    target_modules: tuple[str, ...] | str = (),
    overwrite: bool = False,
) -> Path:
    """Write an adapter in another program's layout.

    Args:
        stored: the adapter.
        out: the folder (PEFT) or the `.safetensors` file (diffusers) to write.
        layout: which one.
        rank: checked if given.
        alpha: needed if the adapter has no manifest, checked if it has one.
        target_modules: without a manifest and without these, they are read from the tensors' names.
        overwrite: replace what is there.

    Returns:
        What was written.

    Raises:
        AdapterMismatch: the declaration disagrees with the manifest, or a module has no name on the other side.
        BadRequest: `out` is there already, or has an unusable name.
    """
    known = stored.manifest.target_modules if stored.manifest else shortest_targets(stored.modules, stored.base_weights)
    spec = stored.spec(rank=rank, alpha=alpha, target_modules=target_modules or known)
    manifest = stored.manifest or AdapterManifest(
        rank=spec.rank, alpha=spec.alpha, target_modules=spec.targets, source_name=stored.path.name
    )
    write = export_peft if layout is ExportFormat.PEFT else export_diffusers
    return write(stored, Path(out), spec, manifest, overwrite=overwrite)


def export_peft(
    stored: StoredAdapter, folder: Path, spec: LoraSpec, manifest: AdapterManifest, *, overwrite: bool = False
) -> Path:
    """A folder that PEFT loads onto a network with native names: `adapter_config.json`, `adapter_model.safetensors`.

    Raises:
        BadRequest: the folder is there already.
    """
    if folder.suffix == ".safetensors" or folder.is_file():
        raise BadRequest("a PEFT adapter is a folder", got=folder, expected="the name of a folder")
    weights = folder / "adapter_model.safetensors"
    save_tensors(weights, to_peft(stored.tensors), manifest.to_metadata(), overwrite=overwrite)
    # Written last: a folder with a configuration is complete.
    (folder / CONFIG_NAME).write_text(json.dumps(lora_config(manifest, spec.targets), indent=2) + "\n")
    return folder


def export_diffusers(
    stored: StoredAdapter, path: Path, spec: LoraSpec, manifest: AdapterManifest, *, overwrite: bool = False
) -> Path:
    """One file that diffusers loads, with the rank and alpha where diffusers looks for them.

    Its pipelines read them; its transformers' `load_lora_adapter` does so with `use_safetensors=True` only, and without
    it takes alpha to be the rank and says nothing.

    Raises:
        AdapterMismatch: a module has no name there.
        BadRequest: the file is there already.
    """
    tensors = to_diffusers(stored.tensors)
    # diffusers adapts layers of these names in every block, so full names are given where a block is left out.
    modules = tuple(sorted({to_diffusers_module(module) for module in stored.modules}))
    config = {f"{DIFFUSERS_PREFIX}{name}": value for name, value in lora_config(manifest, modules).items()}
    metadata = {**manifest.to_metadata(), DIFFUSERS_METADATA_KEY: json.dumps(config, sort_keys=True)}
    save_tensors(path, tensors, metadata, overwrite=overwrite)
    return path
