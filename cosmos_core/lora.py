"""LoRA adapters on the diffusion transformer, through PEFT and with the native key names.

y = W x + strength * (alpha / rank) * B (A x). Any number of adapters lie next to each other on one network, and
`activate` says which of them act and how strongly; with none active the network computes what it computed before, bit
for bit. Adapters stay unmerged, so switching costs nothing and no weight is rounded.

Source: reference file examples/video2world_lora.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cosmos_core.adapter_merge import update_norms
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora_state_dict import (
    LoraSpec,
    check_adapter_tensors,
    lora_tensors,
    select_network,
    shapes_of_targets,
)

__all__ = [
    "LoraSpec",
    "activate",
    "active_strengths",
    "adaptable_linears",
    "adapter_shapes",
    "adapter_tensors",
    "add_adapter",
    "check_adapter_name",
    "check_loaded",
    "differing_base_weights",
    "effective_norms",
    "load_adapter",
    "loaded_adapters",
    "lora_parameter_counts",
    "unload_adapter",
    "wanted_strengths",
]


def adapter_shapes(dit: nn.Module, spec: LoraSpec) -> dict[str, tuple[int, int]]:
    """Names `<module>.lora_A`, `<module>.lora_B` and shapes [rank, in], [out, rank] of an adapter of that kind.

    Raises:
        AdapterMismatch: a target matches no linear layer of the network.
    """
    linears = {name: (linear.out_features, linear.in_features) for name, linear in adaptable_linears(dit)}
    return shapes_of_targets(linears, spec)


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
    tensors = lora_tensors(state_dict, ema=ema, source_adapter=source_adapter)
    add_adapter(dit, tensors, spec, name=name, device=device, dtype=dtype)


def add_adapter(
    dit: DiT,
    tensors: Mapping[str, Tensor],
    spec: LoraSpec,
    *,
    name: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """The same with tensors under the names of `adapter_shapes`.

    Raises:
        AdapterMismatch: as in `load_adapter`.
    """
    check_adapter_tensors(tensors, adapter_shapes(dit, spec), spec)
    check_adapter_name(name, loaded_adapters(dit))
    strengths = active_strengths(dit)
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=cast(int, spec.alpha),  # declared as an integer there, used as a number
        target_modules=list(spec.targets),
        lora_dropout=0.0,
        bias="none",
        init_lora_weights=spec.init_lora_weights,
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


def check_adapter_name(name: str, taken: Collection[str]) -> None:
    """Names become names of submodules, so they are restricted; `training` or `keys` would hide an attribute of those.

    Raises:
        AdapterMismatch: the name is taken or unusable.
    """
    if not re.fullmatch(r"[A-Za-z0-9_\-]+", name) or name in taken or hasattr(nn.ModuleDict(), name):
        raise AdapterMismatch(
            "adapter name already loaded or unusable",
            got=name,
            expected="letters, digits, _ and -, and no word that PyTorch's modules use",
            fix="Choose another name, or unload the adapter first.",
        )


def unload_adapter(dit: DiT, name: str) -> None:
    """Take an adapter off the network and free its weights.

    Raises:
        AdapterMismatch: no adapter of that name is loaded.
    """
    check_loaded({name}, loaded_adapters(dit))
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
    wanted = wanted_strengths(strengths, loaded_adapters(dit))
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


def wanted_strengths(strengths: Mapping[str, float], loaded: Collection[str]) -> dict[str, float]:
    """The strengths that are not 0, checked.

    Raises:
        AdapterMismatch: an adapter is not loaded.
        BadRequest: a strength is not a finite number.
    """
    check_loaded(strengths, loaded)
    for name, strength in strengths.items():
        if not math.isfinite(strength):
            raise BadRequest(f"strength of adapter {name}", got=strength, expected="a finite number")
    return {name: strength for name, strength in strengths.items() if strength != 0}


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


def adapter_tensors(dit: nn.Module, name: str) -> dict[str, Tensor]:
    """The matrices of a loaded adapter under the names of `adapter_shapes`; the network's own, not copies."""
    return {
        f"{module_name}.{matrix}": weight
        for module_name, layer in _lora_layers(dit)
        if name in layer.lora_A
        for matrix, weight in zip(("lora_A", "lora_B"), _matrices(layer, name), strict=True)
    }


def effective_norms(dit: nn.Module, name: str) -> dict[str, float]:
    """Frobenius norm of (alpha / rank) * B A of every adapted layer, at strength 1.

    Raises:
        AdapterMismatch: no adapter of that name is loaded.
    """
    check_loaded({name}, loaded_adapters(dit))
    return update_norms(
        (module_name, layer.lora_alpha[name] / layer.r[name], *_matrices(layer, name))
        for module_name, layer in _lora_layers(dit)
        if name in layer.lora_A
    )


def differing_base_weights(dit: nn.Module, state_dict: Mapping[str, Tensor], *, ema: bool = False) -> list[str]:
    """Adapted layers whose base weight in a training checkpoint is not the network's: it was trained on another base.

    Returns:
        Module names; empty if the base is the same or the file holds no base weights.
    """
    network = select_network(state_dict, ema=ema)
    differing = []
    for name, linear in adaptable_linears(dit):
        weight = network.get(f"{name}.base_layer.weight")
        if weight is not None and not torch.equal(weight.to(linear.weight), linear.weight):
            differing.append(name)
    return differing


def adaptable_linears(dit: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
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


def check_loaded(names: Iterable[str], loaded: Collection[str]) -> None:
    """Refuse names of adapters that are not there.

    Raises:
        AdapterMismatch: an adapter is not loaded.
    """
    unknown = sorted(set(names) - set(loaded))
    if unknown:
        raise AdapterMismatch(
            "no such adapter is loaded",
            got=", ".join(unknown),
            expected=" | ".join(loaded) or "none is loaded",
            fix="Load it before activating it.",
        )
