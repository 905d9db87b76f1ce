"""Put a trained model into the folder that ships with Crossroads.

    python -m examples.tiny_model.publish build/tiny

The base checkpoint is cut into shards of less than 16 MB; adapters come as they were extracted. The hashes of all files
are written last.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file

from cosmos_core.architecture import MODELS
from cosmos_core.hashing import sha256_file
from cosmos_core.tiny import ADAPTERS, SHIPPED_WEIGHTS, SUMS

__all__ = ["main", "write_shards", "write_sums"]

_MODEL = MODELS["tiny"]
_SHARD_SIZE = "15MB"
_TEXT_FILES = ("config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Replace the shipped files by those of a work folder."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.publish", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the training")
    parser.add_argument("--out", type=Path, default=SHIPPED_WEIGHTS)
    options = parser.parse_args(arguments)
    model = options.work / "model"
    write_shards(model / _MODEL.checkpoint_name("112", 10), options.out)
    names = [f"text_encoder/{file}" for file in _TEXT_FILES] + [f"adapters/{name}.safetensors" for name in ADAPTERS]
    for name in ("tokenizer/tokenizer.safetensors", *names):
        (options.out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, options.out / name)
    write_sums(options.out)


def write_shards(checkpoint: Path, folder: Path) -> None:
    """Cut a safetensors file into shards with an index, in the layout of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = checkpoint.name.removesuffix(".safetensors")
    for old in folder.glob(f"{stem}*"):
        old.unlink()
    tensors = load_file(checkpoint)
    pattern = stem + "{suffix}.safetensors"
    plan = split_torch_state_dict_into_shards(tensors, filename_pattern=pattern, max_shard_size=_SHARD_SIZE)
    for file, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    index = {"metadata": plan.metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_sums(folder: Path) -> None:
    """List the SHA-256 of every file, as `sha256sum` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    (folder / SUMS).write_text(
        "".join(f"{sha256_file(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)
    )


if __name__ == "__main__":
    main()
