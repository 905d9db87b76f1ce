"""What a worker holds in a GPU's memory, by the phase of its life.

    text     encoding the prompts, before the transformer is there
    load     only with 8-bit weights: the weights before they are converted
    encode   VAE on the conditioning frames, beside the transformer
    denoise  a forward of the transformer
    decode   VAE on the finished latents, beside the transformer

Weights are counted (`cosmos_core.model_size`). Activations are the tensors alive at the worst moment of the code as it
is, counted on networks without values, which the tests do again; what kernels need beyond that was measured on an
H200 (benchmarks/results) and is marked. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from cosmos_core.architecture import ModelArchitecture
from cosmos_core.geometry import VideoGeometry
from cosmos_core.memory_mode import STRIP_ROWS, Saving
from cosmos_core.model_size import (
    adapted_parameters,
    dit_parameters,
    lora_parameters,
    text_encoder_parameters,
    vae_parameters,
)

__all__ = ["GIB", "PHASES", "Basis", "Part", "WorkerLoad", "peak_bytes", "worker_memory"]

GIB = 2**30
PHASES = ("text", "load", "encode", "denoise", "decode")


class Basis(StrEnum):
    """Where a figure comes from."""

    COMPUTED = "computed"
    """From the architecture alone."""
    FITTED = "fitted"
    """Computed, and brought to what was measured on an H200."""
    FILE = "file"
    """Size of a file on this machine."""
    ASSUMED = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing in memory."""

    name: str
    num_bytes: int
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """What a worker has to hold and to compute."""

    model: ModelArchitecture
    geometry: VideoGeometry
    num_conditional_frames: int = 1
    adapter_ranks: tuple[int, ...] = ()
    """Of the adapters that are loaded together."""
    merge_adapters: bool = True
    quantize: Literal["none", "fp8", "int8"] = "none"
    element_size: int = 2
    """Bytes of a number in transformer and VAE: 2 in bfloat16."""
    text_element_size: int = 4
    """Bytes of a number in the text encoder."""


_FORWARD_TENSORS = 16
"""Tensors of tokens x width alive while keys are rotated, float32 counting twice."""
_FORWARD_WORKSPACE = GIB // 10
"""What a forward needs beyond those: 0.05 to 0.10 GiB in five measured variants."""
_LATENT_TENSORS = 6
"""float32 samples that the solver and the conditioning hold."""
_SCORE_TENSORS = 4
"""Tensors of heads x tokens x tokens in a layer of the text encoder."""
_DECODE_CHANNELS = 53
"""Values alive while the largest level is decoded, for each channel of it and each pixel of a frame."""
_ENCODE_CHANNELS = {1: 10.1, 5: 34.7}
"""The same while 1 or 5 frames are encoded."""
_CONVOLUTION_WORKSPACE = 1.12
"""Measured 9.5 GiB at 720p where 8.5 GiB are alive; assumed to grow with the picture."""
_STRIP_OVERLAP = 6


def worker_memory(
    load: WorkerLoad, *, savings: Collection[Saving] = (), ulysses: int = 1
) -> dict[str, tuple[Part, ...]]:
    """The parts in one GPU's memory in each phase that there is.

    Args:
        load: what is held and computed.
        savings: the memory mode.
        ulysses: GPUs that share the tokens of a forward; the one with the VAE is described.
    """
    resident = _resident(load, savings)
    phases = {
        "encode": (*resident, _encoding(load)),
        "denoise": (*resident, *_denoising(load, ulysses)),
        "decode": (*resident, *_decoding(load, in_strips="strips" in savings)),
    }
    if "text" not in savings:
        phases["text"] = _text(load)
    if load.quantize != "none" and "loading" not in savings:
        unquantized = dit_parameters(load.model.dit) * load.element_size
        phases["load"] = (_computed("transformer, not yet in 8 bits", unquantized),)
    return {phase: phases[phase] for phase in PHASES if phase in phases}


def peak_bytes(phases: dict[str, tuple[Part, ...]]) -> int:
    """Memory of the phase that needs most."""
    return max(sum(part.num_bytes for part in parts) for parts in phases.values())


def _computed(name: str, num_bytes: float) -> Part:
    return Part(name=name, num_bytes=int(num_bytes), basis=Basis.COMPUTED)


def _resident(load: WorkerLoad, savings: Collection[Saving]) -> list[Part]:
    """What stays in memory from one video to the next."""
    dit, size = load.model.dit, load.element_size
    adapted = adapted_parameters(dit)
    parts = [_computed("transformer", _transformer_bytes(load))]
    if load.adapter_ranks:
        num_lora = sum(lora_parameters(dit, rank) for rank in load.adapter_ranks)
        parts.append(_computed("adapters", num_lora * size))
        if load.merge_adapters and load.quantize == "none" and "base" not in savings:
            parts.append(_computed("base weights of adapted layers", adapted * size))
    parts.append(_computed("video VAE", vae_parameters(load.model.vae) * size))
    return parts


def _transformer_bytes(load: WorkerLoad) -> int:
    total = dit_parameters(load.model.dit)
    if load.quantize == "none":
        return total * load.element_size
    adapted = adapted_parameters(load.model.dit)
    return adapted + (total - adapted) * load.element_size


def _denoising(load: WorkerLoad, ulysses: int) -> list[Part]:
    dit, geometry = load.model.dit, load.geometry
    tokens = -(-geometry.num_tokens // ulysses)
    activations = _FORWARD_TENSORS * tokens * dit.model_channels * load.element_size
    rope = 2 * geometry.num_tokens * dit.head_dim * 4
    latents = geometry.num_latent_frames * geometry.latent_height * geometry.latent_width * dit.in_channels
    activations += rope + _LATENT_TENSORS * 4 * latents + _FORWARD_WORKSPACE
    return [Part(name="activations of a forward", num_bytes=activations, basis=Basis.FITTED)]


def _encoding(load: WorkerLoad) -> Part:
    values = _ENCODE_CHANNELS[load.num_conditional_frames] * load.model.vae.dim * _pixels(load)
    return _computed("encoding", values * load.element_size * _CONVOLUTION_WORKSPACE)


def _decoding(load: WorkerLoad, *, in_strips: bool) -> list[Part]:
    vae, geometry, size = load.model.vae, load.geometry, load.element_size
    rows = geometry.height
    kept = 0
    if in_strips:
        rows = min(rows, 4 * (STRIP_ROWS + 2 * _STRIP_OVERLAP))
        kept = vae.dim * vae.dim_mult[-2] * (2 * geometry.num_latent_frames - 1) * _pixels(load) // 16 * size
    values = _DECODE_CHANNELS * vae.dim * rows * geometry.width
    return [
        Part(
            name="decoding in strips" if in_strips else "decoding",
            num_bytes=int(values * size * _CONVOLUTION_WORKSPACE) + kept,
            basis=Basis.COMPUTED if in_strips else Basis.FITTED,
        ),
        _computed("decoded frames", 3 * geometry.num_frames * _pixels(load) * 4),
    ]


def _text(load: WorkerLoad) -> tuple[Part, ...]:
    text, size = load.model.text, load.text_element_size
    scores = _SCORE_TENSORS * text.num_heads * load.model.text_length**2 * size
    return (
        _computed("text encoder", text_encoder_parameters(text) * size),
        _computed("activations of the text encoder", scores),
    )


def _pixels(load: WorkerLoad) -> int:
    return load.geometry.width * load.geometry.height
