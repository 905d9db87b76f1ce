"""Parity of adapters: forwards with both networks of a training checkpoint, subsets of targets, merged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.golden_set import Case, build_dit, load_json, load_tensors, relative_l2, run_dit
from cosmos_core.architecture import architecture_from_reference
from cosmos_core.checkpoint import base_network
from cosmos_core.dit import DiT
from cosmos_core.lora import LoraSpec, activate, load_adapter
from cosmos_core.lora_state_dict import lora_tensors

__all__ = ["adapted_dit", "lora_cases"]

_LIMIT = 2e-6
_BF16_LIMIT = 3e-2


def lora_cases(folder: Path) -> Iterator[Case]:
    """Every output of `lora/` that is a forward or a merged weight; whole runs are with the pipeline's."""
    if not (folder / "lora").is_dir():
        return
    manifest = load_json(folder / "lora/manifest.json")
    for path in sorted(folder.glob("lora/*.safetensors")):
        tensors = load_tensors(path)
        if "in.x" not in tensors:
            continue
        is_subset = tensors.keys() == manifest.get("subset", {}).get("io", {}).keys()
        for output in sorted(name for name in tensors if name.startswith("out.")):
            limit = _BF16_LIMIT if "bf16" in output else _LIMIT
            if is_subset:
                measure = partial(_subset_deviation, folder, manifest, path, output)
            elif output.endswith(".merged_weight"):
                measure = partial(_merged_deviation, folder, manifest, path, output)
            else:
                measure = partial(_forward_deviation, folder, manifest, path, output)
            yield Case("lora bf16" if "bf16" in output else "lora", f"{path.stem} {output}", limit, measure)


def adapted_dit(
    manifest: Mapping[str, Any], state_dict: Mapping[str, Tensor], dtype: torch.dtype, *, ema: bool = False
) -> DiT:
    """The network of a training checkpoint: its own base weights and its adapter at strength 1."""
    architecture = architecture_from_reference(manifest["dit_constructor_kwargs"])
    dit = build_dit(architecture, base_network(state_dict, ema=ema, lora_base=True), dtype)
    load_adapter(dit, state_dict, _spec(manifest["lora"]), ema=ema)
    activate(dit, {"default": 1.0})
    return dit


def _spec(lora: Mapping[str, Any]) -> LoraSpec:
    return LoraSpec(
        rank=lora["rank"], alpha=lora["alpha"], target_modules=lora.get("target_modules", lora.get("targets"))
    )


def _checkpoint(folder: Path, *, with_ema: bool) -> dict[str, Tensor]:
    """The training checkpoint of the folder that holds, or does not hold, an EMA network."""
    for path in sorted(folder.glob("lora/*.pt")):
        state_dict = load_tensors(path)
        if any(name.startswith("net_ema.") for name in state_dict) == with_ema:
            return state_dict
    raise FileNotFoundError(f"lora/*.pt {'with' if with_ema else 'without'} an EMA network")


def _base_dit(folder: Path, manifest: Mapping[str, Any]) -> DiT:
    architecture = architecture_from_reference(manifest["dit_constructor_kwargs"])
    return build_dit(architecture, load_tensors(folder / "pipeline/dit_state_dict.safetensors"), torch.float32)


def _forward_deviation(folder: Path, manifest: Mapping[str, Any], path: Path, output: str) -> float:
    tensors = load_tensors(path)
    if output == "out.base_fp32_no_lora":
        dit = _base_dit(folder, manifest)
    elif output == "out.fp32_checkpoint":
        dit = adapted_dit(manifest, _checkpoint(folder, with_ema=False), torch.float32)
    elif output in ("out.net_fp32", "out.net_ema_fp32", "out.net_bf16_native"):
        dtype = torch.bfloat16 if "bf16" in output else torch.float32
        dit = adapted_dit(manifest, _checkpoint(folder, with_ema=True), dtype, ema="net_ema" in output)
    else:
        raise ValueError(f"no run is known that gives {output}")
    return relative_l2(run_dit(dit, tensors), tensors[output])


def _merged_deviation(folder: Path, manifest: Mapping[str, Any], path: Path, output: str) -> float:
    """W + alpha / rank * B A, of the live network of the training checkpoint in float32."""
    state_dict = _checkpoint(folder, with_ema=True)
    module = output.removeprefix("out.").removesuffix(".merged_weight")
    weight = base_network(state_dict, lora_base=True)[f"{module}.weight"].float()
    adapter = {name: value.float() for name, value in lora_tensors(state_dict).items()}
    delta = adapter[f"{module}.lora_B"] @ adapter[f"{module}.lora_A"]
    return relative_l2(weight + _spec(manifest["lora"]).scale * delta, load_tensors(path)[output])


def _subset_deviation(folder: Path, manifest: Mapping[str, Any], path: Path, output: str) -> float:
    """An adapter-only file on the base of the pipeline."""
    files = [load_tensors(other) for other in sorted(folder.glob("lora/*.safetensors"))]
    (adapter,) = (tensors for tensors in files if any(".lora_A." in name for name in tensors))
    dit = _base_dit(folder, manifest)
    load_adapter(dit, adapter, _spec(manifest["subset"]["lora"]))
    activate(dit, {"default": 1.0})
    tensors = load_tensors(path)
    return relative_l2(run_dit(dit, tensors), tensors[output])
