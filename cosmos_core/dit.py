"""The Video2World diffusion transformer.

Module names are those of published checkpoints, so that a state dict loads without a key map. The network keeps no
buffers: rotary tables and the sinusoid's frequencies are computed, which lets it be built on the meta device and filled
with `load_state_dict(assign=True)`. Nothing in `forward` waits for the device (frame-rate modulation, which no released
configuration uses, is the exception: it reads the frame rate).

Several processes can share the tokens of one forward (`cosmos_core.token_shard`): each computes its own run of them,
and only self-attention and the end see those of the others.

Legend: B batch, C latent channels, T H W latent frames, height, width, L tokens (T * H/2 * W/2), N text tokens,
D model width, S segments of U tokens that lie in one frame each: the frames, or smaller pieces of a shared forward.
Modulation is computed for each frame, [B, T, D], and broadcasts over the tokens of a segment, [B, S, U, D].

Source: reference files cosmos_predict2/models/{text2image_dit,video2world_dit}.py.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from cosmos_core.architecture import DiTArchitecture
from cosmos_core.attention import AttentionFn, attention
from cosmos_core.errors import BadVariant
from cosmos_core.rank_group import RankGroup
from cosmos_core.rope import apply_rope, rope_angles
from cosmos_core.token_shard import TokenShard

__all__ = ["DiT"]

_EPS = 1e-6
_ROPE_CACHE_SIZE = 2
"""Shapes whose rotary tables are kept; one table pair of a 720p clip takes 86 MB."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, statistics in float32, one rounding."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, _EPS)


class Attention(nn.Module):
    """Multi-head attention to `context`, or to the input itself; RMS norm on queries and keys."""

    def __init__(self, dim: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend: AttentionFn = attention
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(context_dim, dim, bias=False)
        self.v_proj = nn.Linear(context_dim, dim, bias=False)
        self.output_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = RMSNorm(dim // num_heads)
        self.k_norm = RMSNorm(dim // num_heads)

    def forward(
        self,
        x_BLD: Tensor,
        context_BND: Tensor,
        rope: tuple[Tensor, Tensor] | None = None,
        shard: TokenShard | None = None,
    ) -> Tensor:
        q = self.q_norm(self.q_proj(x_BLD).unflatten(-1, (self.num_heads, -1)))
        k = self.k_norm(self.k_proj(context_BND).unflatten(-1, (self.num_heads, -1)))
        v = self.v_proj(context_BND).unflatten(-1, (self.num_heads, -1))
        if rope is not None:
            q, k = apply_rope(q, *rope), apply_rope(k, *rope)
        out = self.attend(q, k, v) if shard is None else shard.attend(q, k, v, self.attend)
        return self.output_proj(out.flatten(-2))


class MLP(nn.Module):
    """Two linear layers around an exact (erf) GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(dim, hidden_dim, bias=False)
        self.layer2 = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer2(F.gelu(self.layer1(x)))


class Block(nn.Module):
    """Self-attention, cross-attention and MLP, each modulated and gated by the time embedding."""

    def __init__(self, architecture: DiTArchitecture) -> None:
        super().__init__()
        dim = architecture.model_channels
        self.self_attn = Attention(dim, dim, architecture.num_heads)
        self.cross_attn = Attention(dim, architecture.crossattn_emb_channels, architecture.num_heads)
        self.mlp = MLP(dim, int(dim * architecture.mlp_ratio))
        self.adaln_modulation_self_attn = _adaln(architecture, 3)
        self.adaln_modulation_cross_attn = _adaln(architecture, 3)
        self.adaln_modulation_mlp = _adaln(architecture, 3)

    def forward(
        self,
        x_BSUD: Tensor,
        emb_BTD: Tensor,
        adaln_BT3D: Tensor,
        text_BND: Tensor,
        rope: tuple[Tensor, Tensor],
        shard: TokenShard | None = None,
    ) -> Tensor:
        x = x_BSUD
        grid = x.shape[1:3]

        shift, scale, gate = _modulation(self.adaln_modulation_self_attn(emb_BTD) + adaln_BT3D, 3, shard)
        y = _modulate(x, shift, scale).flatten(1, 2)
        x = torch.addcmul(x, gate, self.self_attn(y, y, rope, shard).unflatten(1, grid))

        shift, scale, gate = _modulation(self.adaln_modulation_cross_attn(emb_BTD) + adaln_BT3D, 3, shard)
        y = _modulate(x, shift, scale).flatten(1, 2)
        x = torch.addcmul(x, gate, self.cross_attn(y, text_BND).unflatten(1, grid))

        shift, scale, gate = _modulation(self.adaln_modulation_mlp(emb_BTD) + adaln_BT3D, 3, shard)
        return torch.addcmul(x, gate, self.mlp(_modulate(x, shift, scale)))


class FinalLayer(nn.Module):
    """Modulated norm and the projection of every token to the pixels of its latent patch."""

    def __init__(self, architecture: DiTArchitecture) -> None:
        super().__init__()
        patch = architecture.patch_spatial**2 * architecture.patch_temporal
        self.linear = nn.Linear(architecture.model_channels, patch * architecture.out_channels, bias=False)
        self.adaln_modulation = _adaln(architecture, 2)

    def forward(self, x_BSUD: Tensor, emb_BTD: Tensor, adaln_BT3D: Tensor, shard: TokenShard | None = None) -> Tensor:
        modulation = self.adaln_modulation(emb_BTD)
        shift, scale = _modulation(modulation + adaln_BT3D[..., : modulation.shape[-1]], 2, shard)
        return self.linear(_modulate(x_BSUD, shift, scale))


class Patchify(nn.Module):
    """[B, C, T, H, W] to tokens [B, T, H/p * W/p, C * p * p], channels slowest."""

    def __init__(self, architecture: DiTArchitecture) -> None:
        super().__init__()
        self.axes = {"r": architecture.patch_temporal, "m": architecture.patch_spatial, "n": architecture.patch_spatial}

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return rearrange(x_BCTHW, "b c (t r) (h m) (w n) -> b t (h w) (c r m n)", **self.axes)


class PatchEmbedding(nn.Module):
    """Latents with their mask channels to tokens."""

    def __init__(self, architecture: DiTArchitecture) -> None:
        super().__init__()
        channels = architecture.in_channels + 1 + int(architecture.concat_padding_mask)
        patch = architecture.patch_spatial**2 * architecture.patch_temporal
        self.proj = nn.Sequential(
            Patchify(architecture), nn.Linear(channels * patch, architecture.model_channels, bias=False)
        )

    def forward(self, x_BCTHW: Tensor, shard: TokenShard | None = None) -> Tensor:
        patchify, embed = self.proj
        patches = patchify(x_BCTHW)
        return embed(patches if shard is None else shard.take(patches))


class Sinusoid(nn.Module):
    """Times [B, T] to [B, T, D]: cosines, then sines; float32 inside, in the dtype of the times outside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, t_BT: Tensor) -> Tensor:
        half = self.dim // 2
        exponents = torch.arange(half, dtype=torch.float32, device=t_BT.device) / half
        angles = t_BT.float()[..., None] * torch.exp(-math.log(10000.0) * exponents)
        return torch.cat([angles.cos(), angles.sin()], dim=-1).to(t_BT.dtype)


class TimeMLP(nn.Module):
    """The modulation term that all blocks share, [B, T, D] to [B, T, 3D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, dim, bias=False)
        self.linear_2 = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class DiT(nn.Module):
    """The network: latents, per-frame times and a text embedding in; a velocity of the latents' shape out.

    Args:
        architecture: the record of numbers.
        rope_table_dtype: precision in which rotary angles are computed; by default the dtype of the weights, which is
            what the reference does (see `cosmos_core.rope`).
    """

    def __init__(self, architecture: DiTArchitecture, *, rope_table_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.rope_table_dtype = rope_table_dtype
        self._rope_cache: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor]] = OrderedDict()
        dim = architecture.model_channels
        self.x_embedder = PatchEmbedding(architecture)
        self.t_embedder = nn.Sequential(Sinusoid(dim), TimeMLP(dim))
        self.t_embedding_norm = RMSNorm(dim)
        self.blocks = nn.ModuleList(Block(architecture) for _ in range(architecture.num_blocks))
        self.final_layer = FinalLayer(architecture)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights that are never replaced or quantised."""
        return self.t_embedding_norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.t_embedding_norm.weight.device

    def set_attention(self, attend: AttentionFn, *, cross: bool = False) -> None:
        """Use another attention in all self-attention layers, or in all cross-attention layers."""
        for module in self.modules():
            if isinstance(module, Block):
                (module.cross_attn if cross else module.self_attn).attend = attend

    def forward(
        self,
        x_BCTHW: Tensor,
        timesteps_B_T: Tensor,
        crossattn_emb_BND: Tensor,
        *,
        condition_mask_B1THW: Tensor,
        padding_mask_B1HW: Tensor | None = None,
        fps_B: Tensor | None = None,
        group: RankGroup | None = None,
    ) -> Tensor:
        """Velocity [B, C, T, H, W] in the dtype of the weights; every input is cast to that dtype.

        Args:
            x_BCTHW: scaled latents, clean on conditioning frames.
            timesteps_B_T: rectified-flow time sigma / (1 + sigma), [B], [B, 1] or one for every latent frame.
            crossattn_emb_BND: text embedding, zero rows where the prompt is shorter than N.
            condition_mask_B1THW: 1 on conditioning frames.
            padding_mask_B1HW: 1 where the picture is padding, at any size; none means no padding.
            fps_B: frames per second, equal in the whole batch; read only with frame-rate modulation.
            group: processes that compute this forward together, all on the same inputs; each gets the whole result.

        Raises:
            WorkerLost: another process of the group has gone.
        """
        dtype = self.dtype
        x = torch.cat([x_BCTHW.to(dtype), condition_mask_B1THW.to(dtype)], dim=1)
        if self.architecture.concat_padding_mask:
            x = torch.cat([x, _padding_channel(x, padding_mask_B1HW)], dim=1)
        text = crossattn_emb_BND.to(dtype)
        timesteps = timesteps_B_T.to(dtype)
        sinusoid = self.t_embedder[0](timesteps if timesteps.ndim == 2 else timesteps[:, None])
        adaln = self.t_embedder[1](sinusoid)
        emb = self.t_embedding_norm(sinusoid)
        rope = self._rope(x.shape[2:], fps_B)
        shard = None
        if group is not None:
            num_frames = x.shape[2] // self.architecture.patch_temporal
            shard = TokenShard(group, num_frames=num_frames, frame_tokens=len(rope[0]) // num_frames, device=x.device)
            rope = (rope[0][shard.start : shard.stop], rope[1][shard.start : shard.stop])

        x = self.x_embedder(x, shard)
        for block in self.blocks:
            x = block(x, emb, adaln, text, rope, shard)
        x = self.final_layer(x, emb, adaln, shard)
        return self._unpatchify(x if shard is None else shard.gather(x), x_BCTHW.shape[-2:])

    def _unpatchify(self, tokens: Tensor, latent_size: tuple[int, ...]) -> Tensor:
        # Channels are the fastest axis here and the slowest in Patchify: so it is in the reference.
        size = self.architecture.patch_spatial
        return rearrange(
            tokens,
            "b t (h w) (m n r c) -> b c (t r) (h m) (w n)",
            h=latent_size[0] // size,
            m=size,
            n=size,
            r=self.architecture.patch_temporal,
        )

    def _rope(self, grid: tuple[int, ...], fps_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables [L, D] of a latent grid T, H, W, kept for the last few grids."""
        fps = None
        if self.architecture.rope_enable_fps_modulation:
            if fps_B is None and grid[0] > 1:
                raise BadVariant("a model with frame-rate modulation needs the frame rate", expected="fps_B [B]")
            fps = None if fps_B is None else float(fps_B[0])
        table_dtype = self.rope_table_dtype or self.dtype
        key = (*grid, fps, table_dtype, self.device)
        if key not in self._rope_cache:
            angles = rope_angles(
                self.architecture,
                num_latent_frames=grid[0],
                latent_height=grid[1],
                latent_width=grid[2],
                table_dtype=table_dtype,
                fps=fps,
                device=self.device,
            )
            self._rope_cache[key] = (angles.cos(), angles.sin())
            if len(self._rope_cache) > _ROPE_CACHE_SIZE:
                self._rope_cache.popitem(last=False)
        self._rope_cache.move_to_end(key)
        return self._rope_cache[key]


def _adaln(architecture: DiTArchitecture, num_parts: int) -> nn.Sequential:
    """Time embedding to `num_parts` modulation vectors, through a bottleneck."""
    dim = architecture.model_channels
    return nn.Sequential(
        nn.SiLU(),
        nn.Linear(dim, architecture.adaln_lora_dim, bias=False),
        nn.Linear(architecture.adaln_lora_dim, num_parts * dim, bias=False),
    )


def _modulation(parts_BTD: Tensor, num_parts: int, shard: TokenShard | None) -> tuple[Tensor, ...]:
    """Vectors [B, S, 1, D] of each segment."""
    parts_BSD = parts_BTD if shard is None else shard.of_frames(parts_BTD)
    return parts_BSD.unsqueeze(2).chunk(num_parts, dim=-1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Norm without weights, then scale and shift."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=_EPS), 1 + scale)


def _padding_channel(x_BCTHW: Tensor, padding_mask_B1HW: Tensor | None) -> Tensor:
    """The padding mask at latent size, repeated over time, [B, 1, T, H, W]."""
    batch, _, frames, height, width = x_BCTHW.shape
    if padding_mask_B1HW is None:
        return x_BCTHW.new_zeros(batch, 1, frames, height, width)
    mask = F.interpolate(padding_mask_B1HW.to(x_BCTHW.dtype), size=(height, width), mode="nearest")
    return mask[:, :, None].expand(batch, 1, frames, height, width)
