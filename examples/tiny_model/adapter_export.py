"""From trained matrices to the adapter's files: the checkpoint that LoRA training writes, and what is extracted of it.

    python -m examples.tiny_model.adapter_export build/tiny

Every `lora-<family>.safetensors` of the work folder becomes `training/<adapter>/iter_000000001.pt`, in the layout of
the reference's training with the base weights inside, and from that `model/adapters/<adapter>.safetensors`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from cosmos_core.adapter_extract import extract_adapter
from cosmos_core.adapter_file import AdapterKind, StoredAdapter
from cosmos_core.architecture import MODELS
from cosmos_core.tiny import training_checkpoint

__all__ = ["ADAPTER_OF", "LORA_ALPHA", "LORA_RANK", "export_adapter", "main"]

ADAPTER_OF = {"t_bone": "collision", "rear_end": "rear_end", "near_miss": "near_miss"}
"""Name of the adapter of every incident family."""
LORA_RANK = 16
LORA_ALPHA = 16.0

_MODEL = MODELS["tiny"]


def export_adapter(work: Path, family: str) -> Path:
    """Write the training checkpoint and the extracted file of one family; returns the latter's path."""
    base = work / "model" / _MODEL.checkpoint_name("112", 10)
    trained = work / f"lora-{family}.safetensors"
    tensors = {
        name.removeprefix("net.").replace(".default", "").removesuffix(".weight"): value
        for name, value in load_file(trained).items()
    }
    adapter = StoredAdapter(path=trained, kind=AdapterKind.EXTRACTED, tensors=tensors, manifest=None)
    name = ADAPTER_OF[family]
    checkpoint = work / "training" / name / "iter_000000001.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    torch.save(training_checkpoint(load_file(base), adapter), checkpoint)
    out = work / "model" / "adapters" / f"{name}.safetensors"
    out.parent.mkdir(parents=True, exist_ok=True)
    extract_adapter(checkpoint, out, alpha=LORA_ALPHA, rank=LORA_RANK, base=base, overwrite=True)
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Export every family that was trained."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.adapter_export", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the training")
    work = parser.parse_args(arguments).work
    for family in ADAPTER_OF:
        if (work / f"lora-{family}.safetensors").exists():
            print(export_adapter(work, family))


if __name__ == "__main__":
    main()
