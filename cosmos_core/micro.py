"""`python -m cosmos_core.micro ROOT`: write the micro model, the real architecture at a size that runs anywhere.

None of its weights is trained. The VAE is written down in closed form and passes pictures through, blurred
(`cosmos_core.micro_vae`); the transformer has one path written by hand that repeats the first frame
(`cosmos_core.micro_transformer`); all else, the text encoder and the adapters are random numbers from a seed. So the
micro model shows that everything works together, and nothing about the quality of the real models.

Files have the layouts of published and training checkpoints, and equal seeds give equal bytes. The model appears under
its name only when it is complete.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cosmos_core.architecture import MODELS
from cosmos_core.dit import DiT
from cosmos_core.errors import BadRequest
from cosmos_core.hashing import sha256_file
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.micro_text import write_text_encoder
from cosmos_core.micro_transformer import CONSTANT_COORDINATES, micro_transformer_state_dict
from cosmos_core.micro_vae import micro_vae_state_dict
from cosmos_core.random_tensor import random_tensor

__all__ = ["ADAPTERS", "main", "make_micro"]

ADAPTERS = ("collision", "rear_end")

_MODEL = MODELS["micro"]
_LORA = LoraSpec(rank=16, alpha=16)
_LORA_B_STD = 0.006
_README = """# The micro model

Not a trained model. It has the architecture and the file layouts of Cosmos-Predict2 Video2World at a size that runs on
any CPU, and serves to try out and test the pipeline.

A video shows the input picture, blurred, under coloured noise; nothing in it moves. The prompt, the seed and the
adapters change the noise and mean nothing. The VAE is written down in closed form, the transformer has one path written
by hand that repeats the first frame, and all other weights are random numbers (seed {seed}).

Made by `python -m cosmos_core.micro`. The adapters have rank {rank} and alpha {alpha:g}.
"""


def make_micro(root: Path | str, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write the micro model below a checkpoint root, unless it is there.

    Args:
        root: checkpoint folder; the model goes to `crossroads/micro` in it.
        seed: of all random weights.
        overwrite: make the model again if it is there.

    Returns:
        The model's folder.

    Raises:
        BadRequest: something incomplete has the model's name.
    """
    folder = Path(root) / _MODEL.repository
    if folder.exists() and not overwrite:
        missing = [name for name in _file_names() if not (folder / name).is_file()]
        if missing:
            raise BadRequest(
                f"{folder} is there, but not the whole micro model",
                got=f"no {missing[0]}",
                fix="Overwrite it, or move it away.",
            )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        _write(building, seed)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cosmos_core.micro", description="Write the micro model, whose weights are not trained."
    )
    parser.add_argument("root", type=Path, help="checkpoint folder")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--overwrite", action="store_true", help="make the model again if it is there")
    options = parser.parse_args(arguments)
    try:
        folder = make_micro(options.root, seed=options.seed, overwrite=options.overwrite)
    except BadRequest as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        sys.stdout.write(f"{sha256_file(file)}  {file}\n")
    return 0


def _file_names() -> list[str]:
    variants = [_MODEL.checkpoint_name(resolution, fps) for resolution in _MODEL.resolutions for fps in _MODEL.fps]
    return [
        "README.md",
        *variants,
        "tokenizer/tokenizer.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/tokenizer.json",
        *(f"adapters/{name}/iter_000000001.pt" for name in ADAPTERS),
    ]


def _write(folder: Path, seed: int) -> None:
    (folder / "tokenizer").mkdir(parents=True)
    network = _transformer(seed)
    for resolution in _MODEL.resolutions:
        for fps in _MODEL.fps:
            weights = {f"net.{name}": value for name, value in network.items()}
            save_file(weights, folder / _MODEL.checkpoint_name(resolution, fps))
    save_file(micro_vae_state_dict(_MODEL.vae), folder / "tokenizer" / "tokenizer.safetensors")
    write_text_encoder(
        folder / "text_encoder", dim=_MODEL.dit.crossattn_emb_channels, length=_MODEL.text_length, seed=seed
    )
    for name in ADAPTERS:
        path = folder / "adapters" / name / "iter_000000001.pt"
        path.parent.mkdir(parents=True)
        torch.save(_training_checkpoint(network, name, seed), path)
    (folder / "README.md").write_text(_README.format(seed=seed, rank=_LORA.rank, alpha=_LORA.alpha))


def _transformer(seed: int) -> dict[str, Tensor]:
    """Weights under plain names, bfloat16 as in published files."""
    weights = micro_transformer_state_dict(_MODEL.dit, seed=seed)
    return {name: value.bfloat16() for name, value in weights.items()}


def _training_checkpoint(network: dict[str, Tensor], adapter: str, seed: int) -> dict[str, Tensor]:
    """What LoRA training writes: the live network, base weights included, under `net.`."""
    with torch.device("meta"):
        shapes = adapter_shapes(DiT(_MODEL.dit), _LORA)
    adapted = {name.rpartition(".")[0] for name in shapes}
    checkpoint: dict[str, Tensor] = {}
    for name, value in network.items():
        module = name.removesuffix(".weight")
        if module not in adapted:
            checkpoint[f"net.{name}"] = value
            continue
        checkpoint[f"net.{module}.base_layer.weight"] = value
        for matrix in ("lora_A", "lora_B"):
            shape = shapes[f"{module}.{matrix}"]
            std = shape[-1] ** -0.5 if matrix == "lora_A" else _LORA_B_STD
            tensor = random_tensor(f"{adapter}.{module}.{matrix}", shape, seed=seed, std=std)
            if matrix == "lora_A" and shape[-1] == _MODEL.dit.model_channels:
                tensor[:, CONSTANT_COORDINATES] = 0.0  # large constants, which would drown what the adapter sees
            checkpoint[f"net.{module}.{matrix}.default.weight"] = tensor.bfloat16()
    return checkpoint


if __name__ == "__main__":
    sys.exit(main())
