"""LoRA tensors in state dicts: whose they are, and whether they are exactly the ones that were declared.

A training checkpoint is one flat dictionary: `net.` for the live network, `net_ema.` for its average, and in each the
base weights (`<module>.base_layer.weight` where a module is adapted) next to `<module>.lora_A.<adapter>.weight` and
`<module>.lora_B.<adapter>.weight`. Adapter-only files hold the last two kinds, with or without a prefix and with or
without the adapter's name. Neither stores alpha or the target list, so both are declared and everything else is
checked against them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cosmos_core.errors import AdapterMismatch

__all__ = ["DEFAULT_TARGETS", "LoraSpec", "check_adapter_tensors", "lora_tensors", "select_network"]

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
        raise AdapterMismatch(
            "the file does not hold the network that was asked for",
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
    others: set[str] = set()
    foreign: list[str] = []
    for key, value in network.items():
        match = _LORA_KEY.match(key)
        if match is None:
            if _FOREIGN.search(key):
                foreign.append(key)
        elif match["adapter"] not in (None, source_adapter):
            others.add(match["adapter"])
        else:
            tensors[f"{match['module']}.{match['matrix']}"] = value
    if foreign:
        raise AdapterMismatch(
            "tensors of an unknown kind in a LoRA adapter",
            got=_shorten(foreign),
            expected="<module>.lora_A.<adapter>.weight and <module>.lora_B.<adapter>.weight",
            fix="Only plain LoRA is supported; export the adapter in that form.",
        )
    if others:
        raise AdapterMismatch(
            "the file stores an adapter of another name",
            got=", ".join(sorted(others)),
            expected=source_adapter,
            fix="Declare the name that the file uses (source_adapter).",
        )
    if not tensors:
        raise AdapterMismatch(
            "no LoRA tensors in the file",
            got=_shorten(network),
            expected="keys with lora_A and lora_B",
            fix="This looks like a base checkpoint: give the file that the LoRA training wrote.",
        )
    return tensors


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
            "the adapter's tensors are not those of the declared targets",
            got="; ".join(
                f"{len(keys)} {kind} ({_shorten(sorted(keys))})"
                for kind, keys in (("missing", missing), ("unexpected", unexpected))
                if keys
            ),
            expected=f"{len(expected)} tensors for targets {','.join(spec.targets)}",
            fix=_suggest(tensors, expected),
        )
    wrong = {key: value for key, value in tensors.items() if tuple(value.shape) != expected[key]}
    if wrong:
        ranks = sorted({value.shape[0] if key.endswith("lora_A") else value.shape[-1] for key, value in wrong.items()})
        key = min(wrong)
        raise AdapterMismatch(
            f"{len(wrong)} LoRA tensors have another shape, first {key}",
            got=tuple(wrong[key].shape),
            expected=f"{expected[key]} for rank {spec.rank}",
            fix=f"The file's rank is {', '.join(map(str, ranks))}: declare it with the alpha that it was trained with, "
            "or use the base model of the size that it was trained on.",
        )


def _suggest(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, int]]) -> str:
    """What to change, from which modules the file adapts."""
    modules = {key.rpartition(".")[0] for key in tensors}
    halves = sorted(module for module in modules if any(f"{module}.lora_{matrix}" not in tensors for matrix in "AB"))
    if halves:
        return f"The file is damaged: {_shorten(halves)} has only one of lora_A and lora_B. Export it again."
    in_file = _kinds(tensors)
    if in_file == _kinds(expected):
        return "The file adapts another number of blocks: use the base model of the size that it was trained on."
    return f"The file adapts {','.join(sorted(in_file))}: declare the target modules that it was trained with."


def _kinds(keys: Iterable[str]) -> set[str]:
    """Module names without the number of their block."""
    return {re.sub(r"^blocks\.\d+\.", "", key.rpartition(".")[0]) for key in keys}


def _shorten(keys: Iterable[str]) -> str:
    """The first few keys and how many there are more."""
    keys = list(keys)
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return (", ".join(keys[:_SHOWN_KEYS]) or "nothing") + more
