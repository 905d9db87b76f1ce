"""The transformer with 8-bit base weights, and adapters stored in 8 bits.

`quantize_base` replaces the linears that adapters are trained on, ten a block and at least nine tenths of all weights,
before or after adapters are loaded; adapters stay in the network's dtype on top:
y = dequantized(W) x + strength * (alpha / rank) * B (A x). Patch and time embedding, norms and the output layer keep
their dtype. So does AdaLN unless asked for: it works on one row a frame, so its speed does not count, and an error in
it scales and shifts every token.

What is to be merged is merged before: load the base, merge, quantize. On a quantized base a merge is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadRequest
from cosmos_core.lora_state_dict import DEFAULT_TARGETS
from cosmos_core.quantized_linear import (
    CODE_DTYPES,
    KERNELS,
    Backend,
    QuantizedLinear,
    Scheme,
    check_backend,
    dequantize_rows,
    quantize_rows,
)

__all__ = [
    "Compute",
    "Quantization",
    "QuantizedAdapter",
    "base_bytes",
    "check_backend",
    "dequantize_adapter",
    "large_linears",
    "quantize_adapter",
    "quantize_base",
    "set_compute",
]

Compute: TypeAlias = Literal["auto", "dequantize", "scaled_mm"]
"""auto: the scheme's kernel on CUDA devices where it passes its check, otherwise dequantize. scaled_mm: the kernel of
8-bit numbers (torch._scaled_mm for FP8, torch._int_mm for int8), or an error."""

_TARGETS = tuple(f".{target}" for target in DEFAULT_TARGETS.split(","))
_CODES, _SCALE = ".quantized", ".scale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """What `quantize_base` did."""

    scheme: Scheme
    backend: Backend
    num_layers: int
    """Linear layers that were replaced."""
    bytes_before: int
    """Base weights of the whole network, adapters left out."""
    bytes_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedAdapter:
    """Content of a file with an adapter in 8 bits."""

    tensors: dict[str, Tensor]
    """`<name>.quantized` [rows, columns] and `<name>.scale` [rows, 1] of every matrix."""
    metadata: dict[str, str]
    """A note for the file's header."""
    relative_errors: dict[str, float]
    """norm(difference) / norm(original) by name."""


@torch.no_grad()
def quantize_base(
    dit: DiT, scheme: Scheme, *, compute: Compute = "auto", adaln: bool = False, fast_accum: bool = True
) -> Quantization:
    """Store the large base weights in 8 bits, in place; loaded adapters stay as they are.

    Layers are replaced one by one, so the peak of memory is that of the network before plus one layer.

    Args:
        dit: the network, on any device.
        scheme: e4m3 with dynamic rowwise scales of the activations, or int8.
        compute: how to multiply, see `Compute`.
        adaln: also the two linears of every block's three AdaLN bottlenecks.
        fast_accum: see `QuantizedLinear`.

    Raises:
        BadRequest: the network is quantized already, or the kernel asked for does not work here.
    """
    if scheme not in CODE_DTYPES:
        raise BadRequest("no such quantization", got=scheme, expected=" | ".join(CODE_DTYPES))
    if any(isinstance(module, QuantizedLinear) for module in dit.modules()):
        raise BadRequest("the base weights are quantized already", fix="Load the base again to quantize it otherwise.")
    backend = _choose_backend(dit.device, scheme, compute, fast_accum)
    bytes_before = base_bytes(dit)
    names = [name for name, _ in large_linears(dit, adaln=adaln)]
    for name in names:
        parent, attribute = _place(dit, name)
        linear = cast(nn.Linear, getattr(parent, attribute))
        layer = QuantizedLinear.from_linear(linear, scheme, backend=backend, fast_accum=fast_accum)
        setattr(parent, attribute, layer.train(linear.training))
    return Quantization(
        scheme=scheme,
        backend=backend,
        num_layers=len(names),
        bytes_before=bytes_before,
        bytes_after=base_bytes(dit),
    )


def set_compute(dit: DiT, compute: Compute, *, fast_accum: bool = True) -> Backend:
    """Choose again how a quantized network multiplies, for instance after moving it to another device.

    Raises:
        BadRequest: the network is not quantized, or the kernel asked for does not work here.
    """
    layers = [module for module in dit.modules() if isinstance(module, QuantizedLinear)]
    if not layers:
        raise BadRequest("the base weights are not quantized", fix="Quantize them first.")
    backend = _choose_backend(dit.device, layers[0].scheme, compute, fast_accum)
    for layer in layers:
        layer.backend, layer.fast_accum = backend, fast_accum
    return backend


def large_linears(dit: nn.Module, *, adaln: bool = False) -> Iterator[tuple[str, nn.Linear]]:
    """The linears that `quantize_base` replaces, under their plain names, adapted or not."""
    for name, module in dit.named_modules():
        in_block = name.startswith("blocks.")
        if not in_block or not (name.endswith(_TARGETS) or (adaln and ".adaln_modulation_" in name)):
            continue
        linear = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(linear, nn.Linear) and ".base_layer" not in name and ".lora_" not in name:
            yield name, linear


def base_bytes(dit: nn.Module) -> int:
    """Bytes of all weights, codes and scales, adapters left out."""
    tensors = [*dit.named_parameters(), *dit.named_buffers()]
    return sum(tensor.numel() * tensor.element_size() for name, tensor in tensors if ".lora_" not in name)


def quantize_adapter(tensors: Mapping[str, Tensor], scheme: Scheme) -> QuantizedAdapter:
    """Code the matrices of an adapter, A and B, row by row; anything else is kept as it is.

    Scales are bfloat16: rows of B are only as long as the rank, and float32 would add a quarter to them at rank 16.

    Args:
        tensors: of an adapter, under any names.
        scheme: e4m3 or int8; int8 is the more accurate one here.
    """
    stored: dict[str, Tensor] = {}
    errors: dict[str, float] = {}
    for name, values in tensors.items():
        if values.ndim != 2 or not values.is_floating_point():
            stored[name] = values
            continue
        codes, scale = quantize_rows(values, scheme, scale_dtype=torch.bfloat16)
        stored[name + _CODES], stored[name + _SCALE] = codes, scale
        difference = dequantize_rows(codes, scale, torch.float32) - values.float()
        errors[name] = float(difference.norm() / values.float().norm().clamp_min(torch.finfo(torch.float32).tiny))
    worst = max(errors.values(), default=0.0)
    metadata = {"quantization": scheme, "quantization_axis": "row", "quantization_error": f"{worst:.3g}"}
    return QuantizedAdapter(tensors=stored, metadata=metadata, relative_errors=errors)


def dequantize_adapter(tensors: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors that were given to `quantize_adapter`, rounded; the same codes give the same bits everywhere.

    Args:
        tensors: what a file holds; tensors that are not quantized are given back unchanged.
        dtype: of the restored matrices. float32 holds them without another rounding.

    Raises:
        AdapterMismatch: codes without scales or the reverse, or of unknown dtypes or shapes.
    """
    restored: dict[str, Tensor] = {}
    for name, values in tensors.items():
        plain = name.removesuffix(_CODES).removesuffix(_SCALE)
        if plain == name:
            restored[name] = values
            continue
        codes, scale = tensors.get(plain + _CODES), tensors.get(plain + _SCALE)
        if codes is None or scale is None:
            raise _damaged(plain, "codes without scales" if scale is None else "scales without codes")
        if codes.dtype not in CODE_DTYPES.values() or scale.shape != (*codes.shape[:-1], 1):
            raise _damaged(plain, f"{codes.dtype} {list(codes.shape)} with scales {list(scale.shape)}")
        if name.endswith(_CODES):
            restored[plain] = dequantize_rows(codes, scale, dtype)
    return restored


def _choose_backend(device: torch.device, scheme: Scheme, compute: Compute, fast_accum: bool) -> Backend:
    if compute == "dequantize" or (compute == "auto" and device.type != "cuda"):
        return "dequantize"
    backend = check_backend(device, scheme, fast_accum=fast_accum)
    if compute == "scaled_mm" and backend == "dequantize":
        raise BadRequest(
            f"torch._{KERNELS[scheme]} does not work on {device}",
            expected="a device on which it passes its check (see the log for the reason)",
            fix='Use compute="auto", which dequantizes in that case.',
        )
    return backend


def _place(dit: DiT, name: str) -> tuple[nn.Module, str]:
    """The module and the attribute that hold a base linear: under an adapter, that is the adapter's layer."""
    module = dit.get_submodule(name)
    if isinstance(module, LoraLayer):
        return cast(nn.Module, module), "base_layer"
    parent, _, attribute = name.rpartition(".")
    return dit.get_submodule(parent), attribute


def _damaged(name: str, got: str) -> AdapterMismatch:
    return AdapterMismatch(
        f"{name} of a quantized adapter is damaged",
        got=got,
        expected=f"{name}{_CODES} in int8 or float8_e4m3fn, [rows, columns], and {name}{_SCALE} [rows, 1]",
        fix="Quantize the adapter again.",
    )
