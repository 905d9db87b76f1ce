"""Checkpoints of the transformer, loaded strictly: every tensor is accounted for by name and shape, or nothing loads.

Published files and training checkpoints put every name under `net.`, and the moving average of the weights, if there
is one, under `net_ema.`. A LoRA training checkpoint holds the base weights as well, renamed to
`<layer>.base_layer.weight`; loading it as a base would leave every adapted layer without weights, so it is refused
unless that is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from cosmos_core.architecture import MODELS, DiTArchitecture
from cosmos_core.checkpoint_kind import CheckpointFacts, CheckpointKind, checkpoint_facts, drop_benign, network_prefixes
from cosmos_core.dit import DiT
from cosmos_core.errors import CheckpointMismatch
from cosmos_core.weights_file import read_state_dict

__all__ = ["base_network", "drop_benign", "fill_dit", "load_dit", "read_state_dict"]

_LORA = re.compile(r"\.lora_[A-Za-z]+(\.|$)")
_SHOWN_KEYS = 4


def load_dit(
    path: Path | str,
    architecture: DiTArchitecture,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    ema: bool = False,
    lora_base: bool = False,
) -> DiT:
    """Build the transformer from a file; the host holds one copy of the weights at most.

    Args:
        path: see `read_state_dict`.
        architecture: what the file is declared to be.
        device: where the weights go.
        dtype: what they are cast to, tensor by tensor.
        ema: take the moving average (`net_ema.`) instead of the live network.
        lora_base: accept a LoRA training checkpoint and take the base weights out of it, without the adapter.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointMismatch: the file is not exactly a transformer of this architecture.
    """
    state_dict = base_network(read_state_dict(path), ema=ema, lora_base=lora_base, source=str(path))
    return fill_dit(state_dict, architecture, device=device, dtype=dtype, source=str(path))


def fill_dit(
    state_dict: dict[str, Tensor],
    architecture: DiTArchitecture,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    source: str = "the state dict",
) -> DiT:
    """Build the transformer from tensors under plain names; the dictionary is emptied on the way.

    Raises:
        CheckpointMismatch: names or shapes are not exactly those of the architecture.
    """
    with torch.device("meta"):
        dit = DiT(architecture)
    _require_exact(state_dict, dit.state_dict(), architecture, source)
    # Taking one tensor out at a time lets its source go before the next is read.
    tensors = {key: state_dict.pop(key).to(device, dtype, copy=True) for key in list(state_dict)}
    dit.load_state_dict(tensors, strict=True, assign=True)
    return dit.requires_grad_(False).eval()


def base_network(
    state_dict: Mapping[str, Tensor], *, ema: bool = False, lora_base: bool = False, source: str = "the state dict"
) -> dict[str, Tensor]:
    """The tensors of one network under plain names, without those that nothing needs.

    Names without a prefix are accepted if no name has one.

    Raises:
        CheckpointMismatch: the network asked for is not there, or the file is of another kind.
    """
    tensors = drop_benign(state_dict)
    facts = checkpoint_facts(tensors)
    _require_transformer(facts, tensors, source)
    prefix = _choose_prefix(network_prefixes(tensors), ema=ema, source=source)
    network = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if facts.kind is CheckpointKind.LORA_TRAINING:
        if not lora_base:
            raise _lora_as_base(network, facts, source)
        network = {key.replace(".base_layer.", "."): value for key, value in network.items() if not _LORA.search(key)}
    return network


def _choose_prefix(found: tuple[str, ...], *, ema: bool, source: str) -> str:
    wanted = "net_ema." if ema else "net."
    if "" in found and len(found) > 1:
        raise CheckpointMismatch(
            f"{source} mixes names with and without a prefix",
            got=" ".join(prefix or "(none)" for prefix in found),
            expected="net. and net_ema., or no prefix at all",
            fix="Save the state dict of one network.",
        )
    if wanted in found:
        return wanted
    if found == ("",) and not ema:
        return ""
    raise CheckpointMismatch(
        f"{source} does not hold the {'EMA' if ema else 'live'} network",
        got=" ".join(prefix or "(none)" for prefix in found),
        expected=wanted,
        fix="Turn the EMA option off." if ema else "The file holds EMA weights alone: turn the EMA option on.",
    )


def _require_transformer(facts: CheckpointFacts, tensors: Mapping[str, Tensor], source: str) -> None:
    fixes = {
        CheckpointKind.LORA_ADAPTER: "Give the base checkpoint here and declare this file as an adapter.",
        CheckpointKind.VAE: "This is the tokenizer: give the model-*.pt of the model's repository.",
        CheckpointKind.TEXT_ENCODER: "This is the text encoder: give the model-*.pt of the model's repository.",
        CheckpointKind.DIFFUSERS: "Give the original model-*.pt; files converted for diffusers have other names.",
        CheckpointKind.UNKNOWN: "Check the file with `python -m cosmos_core.checkpoint_report`: its names may carry "
        "another prefix than net. or net_ema., or it is no Video2World model.",
    }
    if facts.kind in fixes:
        raise CheckpointMismatch(
            f"{source} is no base checkpoint of the transformer",
            got=f"{facts.kind} ({_shorten(tensors)})",
            expected=CheckpointKind.BASE,
            fix=fixes[facts.kind],
        )


def _lora_as_base(network: Mapping[str, Tensor], facts: CheckpointFacts, source: str) -> CheckpointMismatch:
    unexpected = [key for key in network if ".base_layer." in key or _LORA.search(key)]
    shown = ", ".join(repr(key) for key in unexpected[:_SHOWN_KEYS])
    rest = f", ... {len(unexpected) - _SHOWN_KEYS} more" if len(unexpected) > _SHOWN_KEYS else ""
    rank = ", ".join(map(str, facts.lora_ranks))
    return CheckpointMismatch(
        f"{source} was written by LoRA training and is no base checkpoint. Unexpected keys in regular model: "
        f"[{shown}{rest}]",
        got=f"{facts.kind} of rank {rank} for {','.join(facts.lora_targets)}",
        expected=CheckpointKind.BASE,
        fix="Declare it as an adapter with its rank and alpha, on top of the base checkpoint that it was trained from; "
        "or load its base weights alone with the lora_base option.",
    )


def _require_exact(
    tensors: Mapping[str, Tensor], network: Mapping[str, Tensor], architecture: DiTArchitecture, source: str
) -> None:
    missing, unexpected = network.keys() - tensors.keys(), tensors.keys() - network.keys()
    wrong = {key for key in network.keys() & tensors.keys() if tensors[key].shape != network[key].shape}
    if not (missing or unexpected or wrong):
        return
    parts = [
        f"{len(keys)} {kind} ({_shorten(sorted(keys))})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    example = min(wrong) if wrong else None
    if example:
        parts.append(f"{example} is {list(tensors[example].shape)} and not {list(network[example].shape)}")
    raise CheckpointMismatch(
        f"{source} is not the declared transformer",
        got="; ".join(parts),
        expected=f"{len(network)} tensors of {architecture.num_blocks} blocks of width {architecture.model_channels}",
        fix=_likely_cause(tensors, network, architecture),
    )


def _likely_cause(tensors: Mapping[str, Tensor], network: Mapping[str, Tensor], architecture: DiTArchitecture) -> str:
    facts = checkpoint_facts(tensors)
    embedding = "x_embedder.proj.1.weight"
    prefix = next((key.removesuffix(embedding) for key in tensors if key.endswith(embedding)), None)
    if prefix:
        return f"Names carry the prefix {prefix}: save the state dict of the network itself, or name it net."
    if prefix is None:
        return "The file holds only a part of the network: copy it again, or save the whole state dict."
    if (facts.model_channels, facts.num_blocks) != (architecture.model_channels, architecture.num_blocks):
        if facts.size in MODELS:
            return f"The file is a {facts.size} model: declare that size, or give the file of the declared one."
        if facts.model_channels == architecture.model_channels:
            return f"The file has {facts.num_blocks} blocks: it is cut short, or of another model."
        return (
            f"The file is a model of {facts.num_blocks} blocks of width {facts.model_channels}, which is none of ours."
        )
    if tensors[embedding].shape[1] != network[embedding].shape[1]:
        return "The input channels differ: Text2Image models cannot continue a video; give a Video2World model."
    return "The file is damaged or of another model family: download it again and compare its SHA-256."


def _shorten(keys: Mapping[str, object] | list[str]) -> str:
    """The first few names and how many there are more."""
    names = list(keys)
    more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    return (", ".join(names[:_SHOWN_KEYS]) or "nothing") + more
