"""PEFT's `adapter_config.json`, which diffusers also puts into the metadata of its LoRA files.

Only plain LoRA has a meaning here. An option that changes the arithmetic or the base weights is refused by name: an
adapter that loads and computes something else is the one mistake that nobody sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cosmos_core.adapter_manifest import AdapterManifest
from cosmos_core.errors import AdapterMismatch

__all__ = ["CONFIG_NAME", "lora_config", "manifest_from_config", "read_config"]

CONFIG_NAME = "adapter_config.json"

_CHANGES_ARITHMETIC = (
    "use_rslora",
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "fan_in_fan_out",
)
_PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")
"""Other values start from changed base weights, on which alone such an adapter fits."""


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of a PEFT adapter folder.

    Raises:
        AdapterMismatch: it is no JSON object.
    """
    path = folder / CONFIG_NAME
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise AdapterMismatch(f"{path} is no JSON", got=error, fix="Export the adapter again.") from error
    if not isinstance(config, dict):
        raise AdapterMismatch(f"{path} is no PEFT configuration", got=type(config).__name__, expected="an object")
    return config


def manifest_from_config(config: Mapping[str, Any], targets: tuple[str, ...], source: str) -> AdapterManifest:
    """Rank and alpha of a PEFT configuration.

    Args:
        config: the configuration.
        targets: what the tensors adapt, for configurations that give a pattern or another program's names.
        source: named in errors.

    Raises:
        AdapterMismatch: it is not plain LoRA, or says no rank or alpha.
    """
    kind = str(config.get("peft_type", "LORA")).rpartition(".")[2]
    if kind != "LORA":
        raise AdapterMismatch(f"{source} is no LoRA adapter", got=kind, expected="LORA")
    options = [name for name in _CHANGES_ARITHMETIC if config.get(name)]
    if config.get("bias", "none") not in (None, "none"):
        options.append("bias")
    if config.get("init_lora_weights") not in _PLAIN_INITS:
        options.append("init_lora_weights")
    if options:
        raise AdapterMismatch(
            f"{source} is not plain LoRA",
            got=", ".join(f"{name} = {config[name]}" for name in options),
            expected="y = W x + alpha / rank * B A x with one rank and one alpha",
            fix="Convert the adapter to plain LoRA where it was trained.",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1 or not alpha > 0:
        raise AdapterMismatch(f"{source} does not say rank and alpha", got=f"r {rank}, lora_alpha {alpha}")
    return AdapterManifest(rank=rank, alpha=alpha, target_modules=targets)


def lora_config(manifest: AdapterManifest, targets: tuple[str, ...]) -> dict[str, Any]:
    """The configuration that PEFT needs for an adapter."""
    alpha = manifest.alpha
    return {
        "peft_type": "LORA",
        "r": manifest.rank,
        # PEFT declares an integer and computes with any number.
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "target_modules": list(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }
