"""Files of named tensors, read without ever running what is in them.

`.pt` and `.pth` go through PyTorch's restricted unpickler (`weights_only=True`) and are mapped into memory;
`.safetensors` hold nothing but tensors; a folder or an `*.index.json` stands for the shards that it lists.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cosmos_core.errors import CheckpointMismatch, CheckpointMissing

__all__ = ["read_state_dict"]

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_LFS_POINTER = b"version https://git-lfs"
_COPY_AGAIN = "Download or copy the file again and compare its SHA-256."


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU, in the file's dtypes.

    Args:
        path: `.pt`, `.pth`, `.bin`, `.ckpt`, `.safetensors`, an `*.index.json` that lists shards of these types, or a
            folder with safetensors. Pickled files stay on disk until a tensor is read.

    Raises:
        CheckpointMissing: there is no such file, or a shard is missing.
        CheckpointMismatch: the file is damaged, of another type, or holds more than named tensors.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointMissing("no such checkpoint", got=path, fix="Correct the path, or download the file.")
    if path.is_dir():
        path = _only_weights_in(path)
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    return _read_one(path)


def _read_one(path: Path) -> dict[str, Tensor]:
    _refuse_placeholder(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _PICKLED:
        return _read_pickled(path)
    raise CheckpointMismatch(
        f"the type of {path} is unknown",
        got=path.suffix or "no suffix",
        expected=" | ".join((*_PICKLED, ".safetensors")),
    )


def _only_weights_in(folder: Path) -> Path:
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found)
            raise CheckpointMismatch(
                f"{folder} does not say which file to read", got=names, expected="one", fix="Name one of the files."
            )
    raise CheckpointMissing(f"no weights in {folder}", expected="a .safetensors file or an index of shards")


def _read_shards(index: Path) -> dict[str, Tensor]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointMismatch(f"{index} is no index of shards", got=error, expected="weight_map") from error
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard or not (index.parent / shard).is_file():
            raise CheckpointMissing(
                f"a shard of {index} is missing", got=shard, expected=f"{len(shards)} files next to the index"
            )
        tensors.update(_read_one(index.parent / shard))
    if tensors.keys() != weight_map.keys():
        first = min(tensors.keys() ^ weight_map.keys())
        raise CheckpointMismatch(f"the shards do not hold what {index} lists, first {first}", fix=_COPY_AGAIN)
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointMismatch(f"{path} is damaged or cut short", got=error, fix=_COPY_AGAIN) from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        # Files older than PyTorch 1.6 are no zip archives and cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointMismatch(
            f"{path} holds more than tensors, or is damaged",
            got=str(error).split("\n")[0],
            expected="a dictionary of tensors",
            fix="Objects in a checkpoint can run code and are never loaded: save the plain state dict.",
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointMismatch(f"{path} is damaged or cut short", got=reason, fix=_COPY_AGAIN) from error
    return _only_tensors(path, content)


def _only_tensors(path: Path, content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointMismatch(f"{path} is no state dict", got=type(content).__name__, expected="named tensors")
    # Some versions of Transformer Engine save None as the extra state of a norm.
    content = {name: value for name, value in content.items() if value is not None or "_extra_state" not in str(name)}
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise CheckpointMismatch(
            f"{path} holds more than named tensors" if content else f"{path} is empty",
            got=", ".join(f"{name} ({type(content[name]).__name__})" for name in others[:4] if name in content) or None,
            expected="one flat dictionary of tensors",
            fix="Save the inner state dict on its own." if content else _COPY_AGAIN,
        )
    return content


def _refuse_placeholder(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(_LFS_POINTER))
    if head == _LFS_POINTER:
        raise CheckpointMismatch(
            f"{path} is the placeholder of a large file", got="a Git LFS pointer", fix="Fetch it with `git lfs pull`."
        )
    if not head:
        raise CheckpointMismatch(f"{path} is empty", got="0 bytes", fix=_COPY_AGAIN)
