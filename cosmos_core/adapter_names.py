"""Names of LoRA tensors in other programs' files, and which short target list stands for a set of modules.

Here a tensor is called `<module>.lora_A` or `<module>.lora_B`, with the module's native name
`blocks.<n>.<self_attn | cross_attn | mlp>.<layer>`. diffusers splits the same transformer into other modules:

    blocks      -> transformer_blocks       q_proj, k_proj, v_proj -> to_q, to_k, to_v
    self_attn   -> attn1                    output_proj            -> to_out.0
    cross_attn  -> attn2                    mlp.layer1, mlp.layer2 -> ff.net.0.proj, ff.net.2

Source of the map: names of diffusers' CosmosTransformer3DModel next to those of published checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

from cosmos_core.errors import AdapterMismatch

__all__ = [
    "DIFFUSERS_PREFIX",
    "PEFT_PREFIX",
    "from_diffusers",
    "is_diffusers",
    "shortest_targets",
    "to_diffusers",
    "to_diffusers_module",
    "to_native",
    "to_peft",
]

PEFT_PREFIX = "base_model.model."
DIFFUSERS_PREFIX = "transformer."

_ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
_PROJECTIONS = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
_LAYERS = {
    **{f"{a}.{p}": f"{_ATTENTIONS[a]}.{_PROJECTIONS[p]}" for a in _ATTENTIONS for p in _PROJECTIONS},
    "mlp.layer1": "ff.net.0.proj",
    "mlp.layer2": "ff.net.2",
}
_NATIVE_LAYERS = {theirs: ours for ours, theirs in _LAYERS.items()}
_PREFERRED = ("q_proj", "k_proj", "v_proj", "output_proj", "mlp.layer1", "mlp.layer2")
"""The documents' names; `layer1` alone would do, and would say less."""
_BLOCK = re.compile(r"^(?P<stack>blocks|transformer_blocks)\.(?P<index>\d+)\.(?P<layer>.+)$")
_MATRIX = re.compile(r"^(?P<module>.+)\.(?P<matrix>lora_[AB])(?:\.default)?\.weight$")
_V = TypeVar("_V")


def to_native(tensors: Mapping[str, _V]) -> dict[str, _V]:
    """Names as in training checkpoints, without the network's prefix: `<module>.lora_A.default.weight`."""
    return {f"{name}.default.weight": value for name, value in tensors.items()}


def to_peft(tensors: Mapping[str, _V]) -> dict[str, _V]:
    """Names as in `adapter_model.safetensors` of a PEFT folder."""
    return {f"{PEFT_PREFIX}{name}.weight": value for name, value in tensors.items()}


def to_diffusers(tensors: Mapping[str, _V]) -> dict[str, _V]:
    """Names that diffusers' pipelines load.

    Raises:
        AdapterMismatch: a module has no counterpart.
    """
    renamed = {}
    for name, value in tensors.items():
        module, _, matrix = name.rpartition(".")
        renamed[f"{DIFFUSERS_PREFIX}{to_diffusers_module(module)}.{matrix}.weight"] = value
    return renamed


def to_diffusers_module(module: str) -> str:
    """The diffusers name of one module.

    Raises:
        AdapterMismatch: it has none.
    """
    return _mapped(module, _LAYERS, "transformer_blocks", "diffusers' names")


def is_diffusers(names: Iterable[str]) -> bool:
    """Whether these are names of diffusers' transformer."""
    return any(name.removeprefix(DIFFUSERS_PREFIX).startswith("transformer_blocks.") for name in names)


def from_diffusers(tensors: Mapping[str, _V]) -> dict[str, _V]:
    """Our names `<module>.lora_A` for tensors under diffusers' names.

    Raises:
        AdapterMismatch: a tensor is no LoRA matrix of a module that this network has.
    """
    renamed = {}
    for name, value in tensors.items():
        match = _MATRIX.match(name.removeprefix(DIFFUSERS_PREFIX))
        if match is None:
            raise AdapterMismatch(
                f"Unexpected keys in regular model: [{name!r}]",
                got=name,
                expected="transformer.transformer_blocks.<n>.<layer>.lora_A.weight",
                fix="Only plain LoRA of the transformer is supported; export the adapter in that form.",
            )
        module = _mapped(match["module"], _NATIVE_LAYERS, "blocks", "native names")
        renamed[f"{module}.{match['matrix']}"] = value
    return renamed


def shortest_targets(adapted: Collection[str], linears: Collection[str] = ()) -> tuple[str, ...]:
    """A short list of name suffixes that matches exactly the adapted modules among all linear layers.

    Args:
        adapted: names of the adapted modules.
        linears: names of all linear layers that are known; the ten of every block are known anyway.
    """
    blocks = {match["index"] for name in adapted if (match := _BLOCK.match(name))}
    known = {f"blocks.{index}.{layer}" for index in blocks for layer in _LAYERS} | set(linears) | set(adapted)
    targets = {_shortest(name, set(adapted), known) for name in adapted}
    return tuple(sorted(targets, key=lambda target: (_rank(target), target)))


def _shortest(module: str, adapted: set[str], known: set[str]) -> str:
    match = _BLOCK.match(module)
    candidates = [*_PREFERRED, *([match["layer"]] if match else []), module]
    # The full name is itself a suffix of nothing else in this network, so the search always ends.
    return next(
        candidate
        for candidate in candidates
        if f".{module}".endswith(f".{candidate}")
        and (candidate == module or all(n in adapted for n in known if f".{n}".endswith(f".{candidate}")))
    )


def _rank(target: str) -> int:
    return _PREFERRED.index(target) if target in _PREFERRED else len(_PREFERRED)


def _mapped(module: str, layers: Mapping[str, str], stack: str, where: str) -> str:
    match = _BLOCK.match(module)
    if match is None or match["layer"] not in layers:
        raise AdapterMismatch(
            f"no counterpart in {where}. No module named {module!r} found for LoRA",
            got=module,
            expected=f"<blocks>.<n>.{' | '.join(layers)}",
            fix="Only attention and MLP layers of the blocks have names on both sides.",
        )
    return f"{stack}.{match['index']}.{layers[match['layer']]}"
