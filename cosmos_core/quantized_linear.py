"""Linear layers whose weight is stored in 8 bits.

A matrix is coded row by row, W[n, :] = scale[n] * codes[n, :], so that the largest magnitude of a row falls on the
largest code, 448 in FP8 (e4m3) and 127 in int8. A layer then computes in one of two ways. "dequantize" restores the
weight in the input's dtype for every call: all devices, no rounding of activations, no gain in speed. A kernel of the
device (torch._scaled_mm for FP8, torch._int_mm for int8) codes the activations row by row as well, at the moment of the
call, and multiplies 8-bit numbers. Both kernels lie outside of PyTorch's stable interface, so `check_backend` tries
them on a small problem before they are used.

Legend: M rows of the input (tokens), K input features, N output features.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, Literal, NoReturn, Self, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_core.errors import AdapterMismatch

__all__ = ["Backend", "QuantizedLinear", "Scheme", "check_backend", "dequantize_rows", "quantize_rows"]

logger = logging.getLogger(__name__)

Scheme: TypeAlias = Literal["fp8", "int8"]
Backend: TypeAlias = Literal["dequantize", "scaled_mm", "int_mm"]

CODE_DTYPES: dict[Scheme, torch.dtype] = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
KERNELS: dict[Scheme, Backend] = {"fp8": "scaled_mm", "int8": "int_mm"}
_LARGEST_CODE: dict[Scheme, float] = {"fp8": 448.0, "int8": 127.0}
_MULTIPLE = 16
"""What M, K and N are multiples of wherever a kernel is used; the kernels ask for 16 (FP8) and 8 (int8) at most."""
_FEWEST_ROWS = 32
"""torch._int_mm refuses 16 rows and fewer."""
_ROWS_AT_ONCE = 16384
"""Bounds the float32 and int32 intermediates of a call: 0.5 GiB each at 8192 features."""
_CHECK_LIMIT = 1e-2
"""Relative L2 distance; rounding to bfloat16 gives 2e-3, a wrong layout of codes or scales about 1."""


def quantize_rows(values: Tensor, scheme: Scheme, *, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Codes of the values' shape, and one scale a row, [..., 1]; a row of zeros has scale 1.

    Args:
        values: floating point, coded along its last axis.
        scheme: e4m3 numbers, or integers from -127 to 127.
        scale_dtype: of the scales. Codes are relative to the rounded scale, so a coarse one costs no accuracy.
    """
    limit = _LARGEST_CODE[scheme]
    scale = (torch.linalg.vector_norm(values, math.inf, dim=-1, keepdim=True).float() / limit).to(scale_dtype)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    scaled = values / scale.float()
    if scheme == "int8":
        scaled = scaled.round()
    # The conversion to e4m3 gives NaN and not 448 for what lies above it.
    return scaled.clamp(-limit, limit).to(CODE_DTYPES[scheme]), scale


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The values that the codes stand for; the product is float32 and rounded once."""
    return (codes.float() * scale.float()).to(dtype)


def check_backend(device: torch.device | str, scheme: Scheme = "fp8", *, fast_accum: bool = True) -> Backend:
    """Try the scheme's kernel on a small random problem, against the same product of dequantized numbers.

    Returns:
        The kernel's name, or "dequantize" if it raises or is wrong here, which is logged once a call.
    """
    try:
        deviation = _kernel_deviation(torch.device(device), scheme, fast_accum)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).strip().split("\n")[0]
    else:
        if deviation < _CHECK_LIMIT:
            return KERNELS[scheme]
        reason = f"its result is off by {deviation:.2g}"
    logger.warning(
        "torch._%s cannot be used on %s: %s; %s weights are dequantized for every call",
        KERNELS[scheme],
        device,
        reason,
        scheme,
    )
    return "dequantize"


class QuantizedLinear(nn.Linear):
    """`nn.Linear` without bias on 8-bit weights, which adapters can be put onto like onto any linear layer.

    Its `weight` is sealed: shape, dtype and device can be read, as PEFT does, but computing with it or setting it,
    which is how adapters are merged, raises `AdapterMismatch`: the change would be lost, at best in the rounding.

    Args:
        quantized: codes [N, K], float8_e4m3fn or int8.
        scale: float32 [N, 1].
        dtype: of the weight before it was coded, which is what adapters of this layer are kept in.
        backend: how to multiply; where a kernel does not fit a call's shape, the call dequantizes.
        fast_accum: let torch._scaled_mm keep partial sums in fewer bits, which is faster.
    """

    quantized: Tensor
    scale: Tensor

    def __init__(
        self,
        quantized: Tensor,
        scale: Tensor,
        *,
        dtype: torch.dtype,
        backend: Backend = "dequantize",
        fast_accum: bool = True,
    ) -> None:
        nn.Module.__init__(self)  # that of nn.Linear would allocate the weight
        self.out_features, self.in_features = quantized.shape
        self.register_parameter("bias", None)
        self.dtype = dtype
        self.backend = backend
        self.fast_accum = fast_accum
        self.register_buffer("quantized", quantized)
        self.register_buffer("scale", scale)

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, scheme: Scheme, *, backend: Backend = "dequantize", fast_accum: bool = True
    ) -> Self:
        """The layer with its weight coded on its own device; the original is not changed."""
        assert linear.bias is None
        quantized, scale = quantize_rows(linear.weight.detach(), scheme)
        return cls(quantized, scale, dtype=linear.weight.dtype, backend=backend, fast_accum=fast_accum)

    @property
    def scheme(self) -> Scheme:
        return "int8" if self.quantized.dtype == torch.int8 else "fp8"

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K] that this layer stands for, a new tensor."""
        return dequantize_rows(self.quantized, self.scale, dtype)

    def forward(self, x: Tensor) -> Tensor:
        num_rows = x.shape[:-1].numel()
        if self.backend == "dequantize" or not self._kernel_fits(num_rows):
            return F.linear(x, self.dequantized(x.dtype))
        # Parts of nearly equal size, none of them too small for the kernels.
        num_parts = math.ceil(num_rows / _ROWS_AT_ONCE)
        part_size = _MULTIPLE * math.ceil(num_rows / _MULTIPLE / num_parts)
        x_MK = x.reshape(-1, self.in_features)
        parts = [self._multiply(part).to(x.dtype) for part in torch.split(x_MK, part_size)]
        product = parts[0] if len(parts) == 1 else torch.cat(parts)
        return product.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {self.scheme}, backend={self.backend}"
        )

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            return _SealedWeight(tuple(self.quantized.shape), dtype=self.dtype, device=self.quantized.device)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            _refuse_weight()
        super().__setattr__(name, value)

    def _multiply(self, x_MK: Tensor) -> Tensor:
        if self.backend == "scaled_mm":
            return _scaled_mm(x_MK, self.quantized, self.scale, self.fast_accum)
        return _int_mm(x_MK, self.quantized, self.scale)

    def _kernel_fits(self, num_rows: int) -> bool:
        sizes = (num_rows, self.in_features, self.out_features)
        return num_rows >= _FEWEST_ROWS and all(size % _MULTIPLE == 0 for size in sizes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the network to another device, and never to another dtype: codes would lose their meaning."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.quantized.device)).dtype
        for name, buffer in self.named_buffers(recurse=False):
            moved = fn(buffer)
            setattr(self, name, moved if moved.dtype == buffer.dtype else buffer.to(moved.device))
        return self


class _SealedWeight(Tensor):
    """A tensor without values; every operation on it is a merge or a comparison that cannot work."""

    def __new__(cls, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Self:
        return Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)

    @property
    def data(self) -> NoReturn:
        _refuse_weight()

    @data.setter
    def data(self, _: object) -> None:
        _refuse_weight()

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> NoReturn:
        _refuse_weight()


def _refuse_weight() -> NoReturn:
    raise AdapterMismatch(
        "a quantized layer has no weight to merge an adapter into, or to compare with a checkpoint",
        got="8-bit codes and scales",
        expected="a floating-point weight",
        fix="Load the base, merge, and quantize last; or leave the adapter unmerged on top of the quantized base.",
    )


def _scaled_mm(x_MK: Tensor, codes_NK: Tensor, scale_N1: Tensor, fast_accum: bool) -> Tensor:
    """bfloat16 [M, N]; the kernel wants the second factor column by column, which the transposed view is."""
    x_codes, x_scale = quantize_rows(x_MK.contiguous(), "fp8")
    return torch._scaled_mm(
        x_codes,
        codes_NK.t(),
        scale_a=x_scale,
        scale_b=scale_N1.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=fast_accum,
    )


def _int_mm(x_MK: Tensor, codes_NK: Tensor, scale_N1: Tensor) -> Tensor:
    """float32 [M, N] from sums that are exact in int32."""
    x_codes, x_scale = quantize_rows(x_MK.contiguous(), "int8")
    return torch._int_mm(x_codes, codes_NK.t()).float().mul_(scale_N1.t()).mul_(x_scale)


def _kernel_deviation(device: torch.device, scheme: Scheme, fast_accum: bool) -> float:
    """Relative L2 distance between the kernel's product and that of the same numbers in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 256, generator=generator).to(device, torch.bfloat16)
    weight = torch.randn(128, 256, generator=generator).to(device, torch.bfloat16)
    codes, scale = quantize_rows(weight, scheme)
    product = _scaled_mm(x, codes, scale, fast_accum) if scheme == "fp8" else _int_mm(x, codes, scale)
    x, weight = (dequantize_rows(*quantize_rows(values, scheme), torch.float32) for values in (x, weight))
    return float((product.float() - x @ weight.t()).norm() / (x @ weight.t()).norm())
