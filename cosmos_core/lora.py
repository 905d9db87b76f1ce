"""LoRA adapters on the diffusion transformer, through PEFT and with the native key names.

y = W x + strength * (alpha / rank) * B (A x). Any number of adapters lie next to each other on one network, and
`activate` says which of them act and how strongly; with none active the network computes what it computed before, bit
for bit. Adapters stay unmerged, so switching costs nothing and no weight is rounded.

Source: reference file examples/video2world_lora.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora_state_dict import LoraSpec, check_adapter_tensors, lora_tensors, select_network

__all__ = [
    "LoraSpec",
    "activate",
    "active_strengths",
    "adapter_shapes",
    "differing_base_weights",
    "effective_norms",
    "load_adapter",
    "loaded_adapters",
    "lora_parameter_counts",
    "unload_adapter",
]


def adapter_shapes(dit: nn.Module, spec: LoraSpec) -> dict[str, tuple[int, int]]:
    """Names `<module>.lora_A`, `<module>.lora_B` and shapes [rank, in], [out, rank] of an adapter of that kind.

    Raises:
        AdapterMismatch: a target matches no linear layer of the network.
    """
    shapes: dict[str, tuple[int, int]] = {}
    unmatched = set(spec.targets)
    for name, linear in _linears(dit):
        matching = {target for target in spec.targets if f".{name}".endswith(f".{target}")}
        unmatched -= matching
        if matching:
            shapes[f"{name}.lora_A"] = (spec.rank, linear.in_features)
            shapes[f"{name}.lora_B"] = (linear.out_features, spec.rank)
    if unmatched or not shapes:
        raise AdapterMismatch(
            "target modules match no linear layer",
            got=", ".join(sorted(unmatched)) or "no targets",
            expected="suffixes of module names such as q_proj or mlp.layer1",
            fix="Declare the target modules of the training configuration.",
        )
    return shapes


def load_adapter(
    dit: DiT,
    state_dict: Mapping[str, Tensor],
    spec: LoraSpec,
    *,
    name: str = "default",
    ema: bool = False,
    source_adapter: str = "default",
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Put an adapter onto the network, inactive; what was active before stays so.

    Args:
        dit: the network.
        state_dict: a training checkpoint (with base weights, which are ignored) or LoRA tensors alone.
        spec: what the adapter was trained with.
        name: name of the adapter on this network.
        ema: take the EMA network of a training checkpoint.
        source_adapter: name of the adapter inside the file.
        device: where the adapter's weights go; by default where the network is.
        dtype: what they are cast to; by default the network's dtype, as in the reference.

    Raises:
        AdapterMismatch: the tensors are not exactly those that the declaration asks for, or the name is taken or
            unusable. The network is left as it was.
    """
    shapes = adapter_shapes(dit, spec)
    tensors = lora_tensors(state_dict, ema=ema, source_adapter=source_adapter)
    check_adapter_tensors(tensors, shapes, spec)
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", name) or name in loaded_adapters(dit):
        raise AdapterMismatch(
            "adapter name already loaded or unusable",
            got=name,
            expected="letters, digits, _ and -",
            fix="Choose another name, or unload the adapter first.",
        )
    strengths = active_strengths(dit)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=cast(int, spec.alpha),  # declared as an integer there, used as a number
        target_modules=list(spec.targets),
        lora_dropout=0.0,
        bias="none",
    )
    inject_adapter_in_model(config, dit, adapter_name=name, low_cpu_mem_usage=True)
    # PEFT's own registry; the layers say the same, and a second injection would warn about it.
    dit.__dict__.pop("peft_config", None)
    for module_name, layer in _lora_layers(dit):
        if name not in layer.lora_A:
            continue
        for matrix in ("lora_A", "lora_B"):
            # A copy, because tensors of a checkpoint can be views of a file that is mapped into memory.
            weight = tensors[f"{module_name}.{matrix}"].to(device or dit.device, dtype or dit.dtype, copy=True)
            getattr(layer, matrix)[name].weight = nn.Parameter(weight, requires_grad=False)
    dit.requires_grad_(False).eval()
    activate(dit, strengths)


def unload_adapter(dit: DiT, name: str) -> None:
    """Take an adapter off the network and free its weights.

    Raises:
        AdapterMismatch: no adapter of that name is loaded.
    """
    _check_loaded(dit, {name})
    strengths = active_strengths(dit)
    activate(dit, {})
    for _, layer in _lora_layers(dit):
        if name in layer.lora_A:
            # PEFT would otherwise promote another adapter in its place.
            layer.set_adapter([other for other in layer.lora_A if other != name])
            layer.delete_adapter(name)
    activate(dit, {other: strength for other, strength in strengths.items() if other != name})


def activate(dit: DiT, strengths: Mapping[str, float]) -> None:
    """Make exactly these adapters act, with these strengths; 0 or absence switches one off.

    Raises:
        AdapterMismatch: an adapter is not loaded.
        BadRequest: a strength is not a finite number.
    """
    _check_loaded(dit, set(strengths))
    for name, strength in strengths.items():
        if not math.isfinite(strength):
            raise BadRequest(f"strength of adapter {name}", got=strength, expected="a finite number")
    wanted = {name: strength for name, strength in strengths.items() if strength != 0}
    for _, layer in _lora_layers(dit):
        names = [name for name in wanted if name in layer.lora_A]
        layer.set_adapter(names)
        layer.enable_adapters(bool(names))
        for name in names:
            layer.set_scale(name, wanted[name])
        for name in layer.lora_A:
            # PEFT makes active adapters trainable.
            for weight in _matrices(layer, name):
                weight.requires_grad_(False)


def loaded_adapters(dit: nn.Module) -> list[str]:
    """Names of the adapters that lie on the network, in the order of their loading."""
    return list(dict.fromkeys(name for _, layer in _lora_layers(dit) for name in layer.lora_A))


def active_strengths(dit: nn.Module) -> dict[str, float]:
    """The adapters that act now, and their strengths."""
    return {
        name: layer.scaling[name] * layer.r[name] / layer.lora_alpha[name]
        for _, layer in _lora_layers(dit)
        if not layer.disable_adapters
        for name in layer.active_adapters
    }


def lora_parameter_counts(dit: nn.Module) -> dict[str, int]:
    """Number of parameters of every loaded adapter."""
    counts: dict[str, int] = dict.fromkeys(loaded_adapters(dit), 0)
    for _, layer in _lora_layers(dit):
        for name in layer.lora_A:
            counts[name] += sum(weight.numel() for weight in _matrices(layer, name))
    return counts


@torch.no_grad()
def effective_norms(dit: nn.Module, name: str) -> dict[str, float]:
    """Frobenius norm of (alpha / rank) * B A of every adapted layer, at strength 1.

    ||BA||^2 = trace((B^T B)(A A^T)): only matrices of rank x rank are formed.

    Raises:
        AdapterMismatch: no adapter of that name is loaded.
    """
    _check_loaded(dit, {name})
    modules, squares = [], []
    for module_name, layer in _lora_layers(dit):
        if name in layer.lora_A:
            A, B = (weight.double() for weight in _matrices(layer, name))
            scale = layer.lora_alpha[name] / layer.r[name]
            modules.append(module_name)
            squares.append(scale**2 * ((B.T @ B) * (A @ A.T)).sum())
    norms = torch.stack(squares).clamp_min(0).sqrt().tolist()
    return dict(zip(modules, norms, strict=True))


def differing_base_weights(dit: nn.Module, state_dict: Mapping[str, Tensor], *, ema: bool = False) -> list[str]:
    """Adapted layers whose base weight in a training checkpoint is not the network's: it was trained on another base.

    Returns:
        Module names; empty if the base is the same or the file holds no base weights.
    """
    network = select_network(state_dict, ema=ema)
    differing = []
    for name, linear in _linears(dit):
        weight = network.get(f"{name}.base_layer.weight")
        if weight is not None and not torch.equal(weight.to(linear.weight), linear.weight):
            differing.append(name)
    return differing


def _linears(dit: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Linear layers of the base network under their plain names."""
    for name, module in dit.named_modules():
        if isinstance(module, LoraLayer):
            yield name, cast(nn.Linear, module.get_base_layer())
        elif isinstance(module, nn.Linear) and ".base_layer" not in name and ".lora_" not in name:
            yield name, module


def _lora_layers(dit: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    return ((name, module) for name, module in dit.named_modules() if isinstance(module, LoraLayer))


def _matrices(layer: LoraLayer, name: str) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank] of one adapter."""
    return cast(Tensor, layer.lora_A[name].weight), cast(Tensor, layer.lora_B[name].weight)


def _check_loaded(dit: nn.Module, names: set[str]) -> None:
    loaded = loaded_adapters(dit)
    unknown = sorted(names - set(loaded))
    if unknown:
        raise AdapterMismatch(
            "no such adapter is loaded",
            got=", ".join(unknown),
            expected=" | ".join(loaded) or "none is loaded",
            fix="Load it before activating it.",
        )
