"""`python -m cosmos_core.tiny ROOT`: put the tiny model, which comes with Crossroads, into a checkpoint folder.

The tiny model has the architecture and the file layouts of Cosmos-Predict2 Video2World at a size that runs on any CPU,
and is trained on a procedural traffic world (`examples/traffic_world`, `examples/tiny_model`, docs/tiny-model.md).

The shipped files are verified by SHA-256. The base checkpoint is shipped in shards and put together here; for every
adapter the checkpoint that its training wrote, base weights included, is put together too. The model appears under its
name only when it is complete.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_core.adapter_file import StoredAdapter, read_adapter
from cosmos_core.architecture import MODELS
from cosmos_core.errors import BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.hashing import sha256_file
from cosmos_core.weights_file import read_state_dict

__all__ = ["ADAPTERS", "SHIPPED_WEIGHTS", "SUMS", "install_tiny", "main", "training_checkpoint"]

SHIPPED_WEIGHTS = Path(__file__).resolve().parent / "tiny_weights"
SUMS = "SHA256SUMS"
"""List of the shipped files and their hashes."""
ADAPTERS = ("collision", "rear_end", "near_miss")
"""Shipped adapters, each trained on one family of incidents."""

_MODEL = MODELS["tiny"]


def install_tiny(root: Path | str, *, overwrite: bool = False) -> Path:
    """Put the tiny model below a checkpoint root, unless it is there.

    Args:
        root: checkpoint folder; the model goes to `crossroads/tiny` in it.
        overwrite: put it there again if it is there.

    Returns:
        The model's folder.

    Raises:
        BadRequest: something incomplete has the model's name.
        CheckpointMissing: a shipped file is not there.
        CheckpointMismatch: a shipped file is damaged.
    """
    folder = Path(root) / _MODEL.repository
    if folder.exists() and not overwrite:
        missing = [name for name in _installed_names() if not (folder / name).is_file()]
        if missing:
            raise BadRequest(
                f"{folder} is there, but not the whole tiny model",
                got=f"no {missing[0]}",
                fix="Overwrite it, or move it away.",
            )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        _install(building)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def training_checkpoint(base: Mapping[str, Tensor], adapter: StoredAdapter) -> dict[str, Tensor]:
    """What LoRA training writes: the live network, base weights included, under `net.`.

    Args:
        base: tensors of a base checkpoint under `net.`.
        adapter: its matrices.
    """
    adapted = set(adapter.modules)
    checkpoint: dict[str, Tensor] = {}
    for name, value in base.items():
        module = name.removeprefix("net.").removesuffix(".weight")
        if module not in adapted:
            checkpoint[name] = value
            continue
        checkpoint[f"net.{module}.base_layer.weight"] = value
        for matrix in ("lora_A", "lora_B"):
            checkpoint[f"net.{module}.{matrix}.default.weight"] = adapter.tensors[f"{module}.{matrix}"]
    return checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cosmos_core.tiny", description="Put the tiny model into a checkpoint folder."
    )
    parser.add_argument("root", type=Path, help="checkpoint folder")
    parser.add_argument("--overwrite", action="store_true", help="put it there again if it is there")
    options = parser.parse_args(arguments)
    try:
        folder = install_tiny(options.root, overwrite=options.overwrite)
    except (BadRequest, CheckpointMissing, CheckpointMismatch) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        sys.stdout.write(f"{sha256_file(file)}  {file}\n")
    return 0


def _base_name() -> str:
    return _MODEL.checkpoint_name(_MODEL.resolutions[0], _MODEL.fps[0])


def _installed_names() -> list[str]:
    return [
        "README.md",
        _base_name(),
        "tokenizer/tokenizer.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/tokenizer.json",
        *(f"adapters/{name}.safetensors" for name in ADAPTERS),
        *(f"posttraining/{name}/iter_000000001.pt" for name in ADAPTERS),
    ]


def _install(folder: Path) -> None:
    index = f"{_base_name()}.index.json"
    for name in _verified_names():
        if not name.startswith(_base_name().removesuffix(".safetensors")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SHIPPED_WEIGHTS / name, folder / name)
    base = read_state_dict(SHIPPED_WEIGHTS / index)
    save_file(base, folder / _base_name())
    for name in ADAPTERS:
        adapter = read_adapter(SHIPPED_WEIGHTS / "adapters" / f"{name}.safetensors")
        path = folder / "posttraining" / name / "iter_000000001.pt"
        path.parent.mkdir(parents=True)
        torch.save(training_checkpoint(base, adapter), path)


def _verified_names() -> list[str]:
    """Names of the shipped files, once their content has been compared with the list of hashes.

    Raises:
        CheckpointMissing: a file or the list is not there.
        CheckpointMismatch: a file is not the one that was shipped.
    """
    sums = SHIPPED_WEIGHTS / SUMS
    if not sums.is_file():
        raise CheckpointMissing("the tiny model's files are not here", got=sums, fix="Install Crossroads again.")
    names = []
    for line in sums.read_text().splitlines():
        expected, _, name = line.partition("  ")
        path = SHIPPED_WEIGHTS / name
        if not path.is_file():
            raise CheckpointMissing("a file of the tiny model is missing", got=path, fix="Install Crossroads again.")
        if (found := sha256_file(path)) != expected:
            raise CheckpointMismatch(f"{path} was changed", got=found, expected=expected, fix="Install it again.")
        names.append(name)
    return names


if __name__ == "__main__":
    sys.exit(main())
