"""One process's run of the tokens of a forward, and how self-attention sees all of them.

Tokens are flattened over frames, rows and columns and cut into runs of equal length, up to one token, wherever that
is: in the middle of a frame and of a row. What the network does token by token needs only the run. What differs from
frame to frame (modulation) is applied to segments, the longest equal pieces of the run that lie in one frame each.
Self-attention trades tokens against heads, so that each process has all tokens of some heads, and back.

Legend: B batch, T latent frames, P tokens of a frame, L = T * P tokens, l tokens of this process, S segments, U tokens
of a segment (l = S * U), H heads, h heads of this process, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cosmos_core.attention import AttentionFn
from cosmos_core.group_layout import even_split
from cosmos_core.rank_group import RankGroup

__all__ = ["TokenShard"]


class TokenShard:
    """The share of this process in the tokens of one latent grid.

    Args:
        group: the processes that share them.
        num_frames: latent frames T.
        frame_tokens: tokens P of a frame.
        device: of the tokens.
    """

    def __init__(self, group: RankGroup, *, num_frames: int, frame_tokens: int, device: torch.device) -> None:
        self._group = group
        self._lengths = even_split(num_frames * frame_tokens, group.size)
        self._grid = (num_frames, frame_tokens)
        self.start = sum(self._lengths[: group.rank])
        self.stop = self.start + self._lengths[group.rank]
        self.segment_tokens = math.gcd(frame_tokens, self.start, self.stop)
        # Computed on the device: indices from the host would make the host wait for it.
        starts = torch.arange(self.start, self.stop, self.segment_tokens, device=device)
        self._frames_S = starts // frame_tokens

    def take(self, x_BTPD: Tensor) -> Tensor:
        """The tokens of this process, [B, S, U, D]."""
        run = x_BTPD.flatten(1, 2)[:, self.start : self.stop]
        num_segments = (self.stop - self.start) // self.segment_tokens
        return run.reshape(run.shape[0], num_segments, self.segment_tokens, run.shape[-1])

    def of_frames(self, x_BTD: Tensor) -> Tensor:
        """What belongs to the frame of each segment, [B, S, D]; what is one for all frames, [B, 1, D], stays so."""
        return x_BTD if x_BTD.shape[1] == 1 else x_BTD[:, self._frames_S]

    def gather(self, x_BSUD: Tensor) -> Tensor:
        """The tokens of all processes, [B, T, P, D], on each of them."""
        batch, dim = x_BSUD.shape[0], x_BSUD.shape[-1]
        x_lBD = x_BSUD.flatten(1, 2).transpose(0, 1)
        runs = self._group.collect(x_lBD, [(length, batch, dim) for length in self._lengths])
        return torch.cat(runs).transpose(0, 1).reshape(batch, *self._grid, dim)

    def attend(self, q_BlHD: Tensor, k_BlHD: Tensor, v_BlHD: Tensor, attention: AttentionFn) -> Tensor:
        """Attention of this process's queries to the keys and values of all, [B, l, H, D].

        Args:
            q_BlHD: queries of the run.
            k_BlHD: keys of the run.
            v_BlHD: values of the run.
            attention: computes whole heads.
        """
        batch, length, num_heads, dim = q_BlHD.shape
        heads = even_split(num_heads, self._group.size)
        mine = heads[self._group.rank]

        # Heads slowest, so that what goes to one process lies together. Nothing here is kept longer than it is needed.
        qkv_h3BLD = torch.cat(
            self._group.trade(
                torch.stack([x.permute(2, 0, 1, 3) for x in (q_BlHD, k_BlHD, v_BlHD)], dim=1),
                [count * 3 * batch * length * dim for count in heads],
                [(mine, 3, batch, other, dim) for other in self._lengths],
            ),
            dim=3,
        )
        out_BLhD = attention(*qkv_h3BLD.permute(1, 2, 3, 0, 4))
        out_lBHD = torch.cat(
            self._group.trade(
                out_BLhD.transpose(0, 1),
                [other * batch * mine * dim for other in self._lengths],
                [(length, batch, count, dim) for count in heads],
            ),
            dim=2,
        )
        return out_lBHD.transpose(0, 1)
