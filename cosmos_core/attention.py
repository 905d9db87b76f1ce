"""The one seam through which all attention goes.

A network holds a function of this signature, so another kernel replaces it without touching the network:
`dit.set_attention(partial(attention, backend="cudnn"))`. Where several processes share the tokens of a forward
(`cosmos_core.token_shard`), it is given all tokens of some heads.

Legend: B batch, L tokens, H heads, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["AttentionBackend", "AttentionFn", "attention"]

AttentionBackend: TypeAlias = Literal["auto", "flash", "cudnn", "efficient", "math"]

AttentionFn: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q_BLHD, k_BMHD, v_BMHD) -> BLHD."""

_KERNELS: dict[str, SDPBackend] = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def attention(q_BLHD: Tensor, k_BMHD: Tensor, v_BMHD: Tensor, *, backend: AttentionBackend = "auto") -> Tensor:
    """softmax(q k^T / sqrt(D)) v over all keys, without a mask.

    Args:
        q_BLHD: queries.
        k_BMHD: keys, of any number M of tokens.
        v_BMHD: values.
        backend: kernel of PyTorch's scaled-dot-product attention; "auto" lets PyTorch choose.

    Returns:
        [B, L, H, D].

    Raises:
        RuntimeError: the kernel asked for cannot run on this device, dtype or shape.
    """
    q, k, v = q_BLHD.transpose(1, 2), k_BMHD.transpose(1, 2), v_BMHD.transpose(1, 2)
    if backend == "auto":
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    with sdpa_kernel(_KERNELS[backend]):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
