"""LoRA tensors in state dicts: whose they are, and whether they are exactly the ones that were declared.

A training checkpoint is one flat dictionary: `net.` for the live network, `net_ema.` for its average, and in each the
base weights (`<module>.base_layer.weight` where a module is adapted) next to `<module>.lora_A.<adapter>.weight` and
`<module>.lora_B.<adapter>.weight`. Adapter-only files hold the last two kinds, with or without a prefix and with or
without the adapter's name. Neither stores alpha or the target list, so both are declared and everything else is
checked against them.

Errors use the words that users of the reference know ("Missing keys in regular model", "Unexpected keys in regular
model", "size mismatch for", "No module named ... found for LoRA") with the names that stand in the files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cosmos_core.errors import AdapterMismatch

__all__ = [
    "DEFAULT_TARGETS",
    "LoraSpec",
    "base_linears",
    "check_adapter_tensors",
    "lora_tensors",
    "select_network",
    "shapes_of_targets",
]

DEFAULT_TARGETS = "q_proj,k_proj,v_proj,output_proj,mlp.layer1,mlp.layer2"
"""All projections of self- and cross-attention and both layers of the MLP: ten linears a block."""

_PREFIXES = ("net.", "net_ema.", "base_model.model.")
_LORA_KEY = re.compile(r"^(?P<module>.+)\.(?P<matrix>lora_[AB])(?:\.(?P<adapter>[^.]+))?\.weight$")
_FOREIGN = re.compile(r"(^|\.)lora_|\.alpha$")
_SHOWN_KEYS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """What an adapter was trained with."""

    rank: int = 16
    alpha: float = 16
    """Scale of the adapter times its rank. Checkpoints do not store it and a wrong one scales every delta."""
    target_modules: str | Sequence[str] = DEFAULT_TARGETS
    """Suffixes of module names: a sequence, or a string separated by commas, with or without spaces."""
    init_lora_weights: bool = True
    """Training's choice of initial values. Nothing depends on it here, because every matrix comes from the file."""

    def __post_init__(self) -> None:
        """Refuse a declaration without alpha, which other loaders silently replace by a default.

        Raises:
            AdapterMismatch: rank or alpha is missing or not positive.
        """
        if self.alpha is None or not self.alpha > 0 or self.rank < 1:
            raise AdapterMismatch(
                "a LoRA adapter needs its rank and alpha",
                got=f"rank {self.rank}, alpha {self.alpha}",
                expected="positive numbers",
                fix="Checkpoints do not store alpha: declare the value of the training configuration.",
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The target list without spaces and repetitions."""
        names = self.target_modules.split(",") if isinstance(self.target_modules, str) else self.target_modules
        return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))

    @property
    def scale(self) -> float:
        """What B A is multiplied with at strength 1."""
        return self.alpha / self.rank


def select_network(state_dict: Mapping[str, Tensor], *, ema: bool = False) -> dict[str, Tensor]:
    """The tensors of one network under plain names: `net.`, or `net_ema.` on request, or an unprefixed dictionary.

    Raises:
        AdapterMismatch: the file holds only the other network, or mixes prefixed and plain names.
    """
    wanted = "net_ema." if ema else "net."
    found = {prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in state_dict)}
    if not found and not ema:
        return dict(state_dict)
    if found == {"base_model.model."} and not ema:
        wanted = "base_model.model."
    if wanted not in found:
        there = [key for key in state_dict if _LORA_KEY.match(key)] or list(state_dict)
        missing = [wanted + key.removeprefix(next((p for p in _PREFIXES if key.startswith(p)), "")) for key in there]
        raise AdapterMismatch(
            f"the file does not hold the network asked for. Missing keys in regular model: {_listing(missing)}",
            got=_shorten(state_dict),
            expected=f"keys that start with {wanted}",
            fix="Ask for the live network (ema off)." if ema else "Ask for the EMA network (ema on).",
        )
    strays = [key for key in state_dict if not key.startswith(_PREFIXES)]
    if strays:
        raise AdapterMismatch("keys without a prefix next to prefixed ones", got=_shorten(strays), expected=wanted)
    return {key.removeprefix(wanted): value for key, value in state_dict.items() if key.startswith(wanted)}


def lora_tensors(
    state_dict: Mapping[str, Tensor], *, ema: bool = False, source_adapter: str = "default"
) -> dict[str, Tensor]:
    """The LoRA tensors of a state dict, named `<module>.lora_A` and `<module>.lora_B`.

    Args:
        state_dict: a training checkpoint or an adapter-only file.
        ema: take the EMA network.
        source_adapter: name under which the file stores the adapter; names without one are taken as well.

    Raises:
        AdapterMismatch: there are no LoRA tensors, they belong to another adapter name, or some are of a kind that
            this network has no place for (DoRA magnitudes, biases, other naming schemes).
    """
    network = select_network(state_dict, ema=ema)
    tensors: dict[str, Tensor] = {}
    others: dict[str, str] = {}
    foreign: list[str] = []
    for key, value in network.items():
        match = _LORA_KEY.match(key)
        if match is None:
            if _FOREIGN.search(key):
                foreign.append(key)
        elif match["adapter"] not in (None, source_adapter):
            others[key] = match["adapter"]
        else:
            tensors[f"{match['module']}.{match['matrix']}"] = value
    if foreign:
        raise AdapterMismatch(
            f"tensors of an unknown kind in a LoRA adapter. Unexpected keys in regular model: {_listing(foreign)}",
            got=_shorten(foreign),
            expected="<module>.lora_A.<adapter>.weight and <module>.lora_B.<adapter>.weight",
            fix="Only plain LoRA is supported; export the adapter in that form.",
        )
    if others:
        raise _another_name(others, source_adapter)
    if not tensors:
        raise _no_adapter(network, source_adapter)
    return tensors


def base_linears(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base weights [out, in] of linear layers by module name, from the tensors of one network under plain names."""
    return {
        key.removesuffix(".weight").removesuffix(".base_layer"): value
        for key, value in state_dict.items()
        if key.endswith(".weight") and value.ndim == 2 and ".lora_" not in key
    }


def shapes_of_targets(linears: Mapping[str, tuple[int, int]], spec: LoraSpec) -> dict[str, tuple[int, int]]:
    """Names `<module>.lora_A`, `<module>.lora_B` and shapes [rank, in], [out, rank] of an adapter of that kind.

    Args:
        linears: (out, in) of every linear layer of the network.
        spec: the declaration.

    Raises:
        AdapterMismatch: a target matches no linear layer of the network.
    """
    shapes: dict[str, tuple[int, int]] = {}
    unmatched = set(spec.targets)
    for name, (out_features, in_features) in linears.items():
        matching = {target for target in spec.targets if f".{name}".endswith(f".{target}")}
        unmatched -= matching
        if matching:
            shapes[f"{name}.lora_A"] = (spec.rank, in_features)
            shapes[f"{name}.lora_B"] = (out_features, spec.rank)
    if unmatched or not shapes:
        named = "".join(f". No module named {name!r} found for LoRA" for name in sorted(unmatched))
        raise AdapterMismatch(
            f"target modules match no linear layer{named}",
            got=", ".join(sorted(unmatched)) or "no targets",
            expected="suffixes of module names such as q_proj or mlp.layer1",
            fix="Declare the target modules of the training configuration.",
        )
    return shapes


def check_adapter_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, int]], spec: LoraSpec
) -> None:
    """Compare names and shapes; nothing may be missing, left over or of another shape.

    Raises:
        AdapterMismatch: they differ; the message names the first offending keys and what to change.
    """
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unexpected:
        raise AdapterMismatch(
            "the adapter's tensors are not those of the declared targets" + _differences(missing, unexpected, expected),
            got=" and ".join(
                f"{len(keys)} {kind}" for kind, keys in (("missing", missing), ("unexpected", unexpected)) if keys
            ),
            expected=f"{len(expected)} tensors for targets {','.join(spec.targets)}",
            fix=_suggest(tensors, expected),
        )
    wrong = {key: value for key, value in tensors.items() if tuple(value.shape) != expected[key]}
    if wrong:
        ranks = sorted({value.shape[0] if key.endswith("lora_A") else value.shape[-1] for key, value in wrong.items()})
        key = min(wrong)
        raise AdapterMismatch(
            f"size mismatch for {_stored(key)}" + (f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""),
            got=tuple(wrong[key].shape),
            expected=f"{expected[key]} for rank {spec.rank}",
            fix=f"The file's rank is {', '.join(map(str, ranks))}: declare it with the alpha that it was trained with, "
            "or use the base model of the size that it was trained on.",
        )


def _differences(missing: Iterable[str], unexpected: Iterable[str], expected: Iterable[str]) -> str:
    """The clauses about keys that the two sides do not share, and a module that has no place in the network."""
    text = ""
    for kind, keys in (("Missing", sorted(missing)), ("Unexpected", sorted(unexpected))):
        if keys:
            text += f". {kind} keys in regular model: {_listing(map(_stored, keys))}"
    strangers = sorted({_module(key) for key in unexpected} - {_module(key) for key in expected})
    if strangers:
        text += f". No module named {strangers[0]!r} found for LoRA"
    return text


def _another_name(others: Mapping[str, str], source_adapter: str) -> AdapterMismatch:
    wanted = [key.replace(f".{name}.weight", f".{source_adapter}.weight") for key, name in others.items()]
    names = ", ".join(sorted(set(others.values())))
    return AdapterMismatch(
        f"the file stores an adapter of another name. Missing keys in regular model: {_listing(wanted)}. "
        f"Unexpected keys in regular model: {_listing(others)}",
        got=names,
        expected=source_adapter,
        fix="Declare the name that the file uses (source_adapter).",
    )


def _no_adapter(network: Mapping[str, Tensor], source_adapter: str) -> AdapterMismatch:
    targets = DEFAULT_TARGETS.split(",")
    modules = [name for name in base_linears(network) if any(f".{name}".endswith(f".{target}") for target in targets)]
    missing = [f"{module}.lora_{matrix}.{source_adapter}.weight" for module in sorted(modules) for matrix in "AB"]
    return AdapterMismatch(
        "no LoRA tensors in the file" + (f". Missing keys in regular model: {_listing(missing)}" if missing else ""),
        got=_shorten(network),
        expected="keys with lora_A and lora_B",
        fix="This looks like a base checkpoint: give the file that the LoRA training wrote.",
    )


def _suggest(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, int]]) -> str:
    """What to change, from which modules the file adapts."""
    modules = {_module(key) for key in tensors}
    halves = sorted(module for module in modules if any(f"{module}.lora_{matrix}" not in tensors for matrix in "AB"))
    if halves:
        return f"The file is damaged: {_shorten(halves)} has only one of lora_A and lora_B. Export it again."
    in_file = _kinds(tensors)
    if in_file == _kinds(expected):
        return "The file adapts another number of blocks: use the base model of the size that it was trained on."
    return f"The file adapts {','.join(sorted(in_file))}: declare the target modules that it was trained with."


def _kinds(keys: Iterable[str]) -> set[str]:
    """Module names without the number of their block."""
    return {re.sub(r"^blocks\.\d+\.", "", _module(key)) for key in keys}


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _stored(key: str) -> str:
    """The name that `<module>.lora_A` has in training checkpoints, without the network's prefix."""
    return f"{key}.default.weight"


def _listing(keys: Iterable[str]) -> str:
    """The first few names as a list, and how many there are more."""
    keys = list(keys)
    more = [f"... {len(keys) - _SHOWN_KEYS} more"] if len(keys) > _SHOWN_KEYS else []
    return f"[{', '.join([*map(repr, keys[:_SHOWN_KEYS]), *more])}]"


def _shorten(keys: Iterable[str]) -> str:
    """The first few keys and how many there are more."""
    keys = list(keys)
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return (", ".join(keys[:_SHOWN_KEYS]) or "nothing") + more
