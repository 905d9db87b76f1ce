"""Every size of model as one frozen record of numbers: 2B, 14B, tiny and micro differ in nothing else.

`tiny` is trained and comes with Crossroads; `micro` is untrained, a double for tests.

No torch here: flows and tasks read these records to validate scenarios before anything heavy is imported.
Constants are those of the reference configurations (cosmos_predict2/configs/base/config_video2world.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cosmos_core.errors import BadConfig, BadVariant

__all__ = [
    "MODELS",
    "DiTArchitecture",
    "ModelArchitecture",
    "TextEncoderArchitecture",
    "VAEArchitecture",
    "architecture_from_reference",
    "model_architecture",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTArchitecture:
    """Numbers of the diffusion transformer."""

    model_channels: int
    """Width D of the residual stream."""
    num_blocks: int
    num_heads: int
    mlp_ratio: float = 4.0
    crossattn_emb_channels: int = 1024
    """Width of the text embeddings."""
    adaln_lora_dim: int = 256
    in_channels: int = 16
    """Latent channels; the condition mask and the padding mask add one each inside."""
    out_channels: int = 16
    patch_spatial: int = 2
    patch_temporal: int = 1
    concat_padding_mask: bool = True
    rope_h_extrapolation_ratio: float = 1.0
    rope_w_extrapolation_ratio: float = 1.0
    rope_t_extrapolation_ratio: float = 1.0
    rope_enable_fps_modulation: bool = False
    max_img_h: int = 240
    """Largest latent height."""
    max_img_w: int = 240
    max_frames: int = 128
    """Largest number of latent frames."""

    @property
    def head_dim(self) -> int:
        return self.model_channels // self.num_heads


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEArchitecture:
    """Numbers of the Wan 2.1 video VAE."""

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    """Whether each spatial halving of the encoder also halves time; the decoder mirrors it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderArchitecture:
    """Numbers of the encoder of a T5; the defaults are those of google-t5/t5-11b.

    Loading reads them from the encoder's own config.json; these say beforehand how large it will be."""

    dim: int = 1024
    hidden_dim: int = 65536
    num_layers: int = 24
    num_heads: int = 128
    head_dim: int = 128
    vocabulary: int = 32128
    num_position_buckets: int = 32
    gated: bool = False
    """Whether the feed-forward layer has a second input projection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArchitecture:
    """One size of Video2World: its networks and the variants that exist of it."""

    name: str
    dit: DiTArchitecture
    vae: VAEArchitecture = VAEArchitecture()
    text: TextEncoderArchitecture = TextEncoderArchitecture()
    resolutions: tuple[str, ...] = ("480", "720")
    fps: tuple[int, ...] = (10, 16)
    repository: str = ""
    """Folder below the checkpoint root, `<org>/<name>`, as in the reference's layout."""
    text_encoder: str = "google-t5/t5-11b"
    """Folder of the text encoder below the checkpoint root."""
    text_length: int = 512
    """Tokens a prompt is padded or cut to."""
    checkpoint_suffix: str = ".pt"
    made_by: str = ""
    """Command that puts the model's files in place; published models have none and are downloaded."""

    def checkpoint_name(self, resolution: str, fps: int) -> str:
        """File name of one variant, e.g. `model-720p-16fps.pt`."""
        return f"model-{resolution}p-{fps}fps{self.checkpoint_suffix}"


MODELS: dict[str, ModelArchitecture] = {
    "2B": ModelArchitecture(
        name="2B",
        dit=DiTArchitecture(
            model_channels=2048,
            num_blocks=28,
            num_heads=16,
            rope_h_extrapolation_ratio=3.0,
            rope_w_extrapolation_ratio=3.0,
            rope_t_extrapolation_ratio=1.0,
        ),
        repository="nvidia/Cosmos-Predict2-2B-Video2World",
    ),
    "14B": ModelArchitecture(
        name="14B",
        dit=DiTArchitecture(
            model_channels=5120,
            num_blocks=36,
            num_heads=40,
            rope_h_extrapolation_ratio=2.0,
            rope_w_extrapolation_ratio=2.0,
            rope_t_extrapolation_ratio=20.0 / 24.0,
        ),
        repository="nvidia/Cosmos-Predict2-14B-Video2World",
    ),
    "tiny": ModelArchitecture(
        name="tiny",
        dit=DiTArchitecture(
            model_channels=320,
            num_blocks=8,
            num_heads=5,
            crossattn_emb_channels=128,
            adaln_lora_dim=32,
        ),
        vae=VAEArchitecture(dim=32, dim_mult=(1, 2, 3, 3), num_res_blocks=1),
        text=TextEncoderArchitecture(
            dim=128, hidden_dim=256, num_layers=3, num_heads=4, head_dim=32, vocabulary=536, gated=True
        ),
        resolutions=("112",),
        fps=(10,),
        repository="crossroads/tiny",
        text_encoder="crossroads/tiny/text_encoder",
        text_length=128,
        checkpoint_suffix=".safetensors",
        made_by="crossroads tiny",
    ),
    "micro": ModelArchitecture(
        name="micro",
        dit=DiTArchitecture(
            model_channels=128,
            num_blocks=4,
            num_heads=4,
            crossattn_emb_channels=64,
            adaln_lora_dim=32,
        ),
        vae=VAEArchitecture(dim=8),
        text=TextEncoderArchitecture(dim=64, hidden_dim=128, num_layers=2, num_heads=4, head_dim=16, vocabulary=701),
        resolutions=("112",),
        fps=(10,),
        repository="crossroads/micro",
        text_encoder="crossroads/micro/text_encoder",
        text_length=128,
        checkpoint_suffix=".safetensors",
        made_by="python -m cosmos_core.micro ROOT",
    ),
}


def model_architecture(name: str) -> ModelArchitecture:
    """The record of one model size.

    Raises:
        BadVariant: there is no model of that name.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise BadVariant("no such model", got=name, expected=" | ".join(MODELS)) from None


_INERT = {
    "atten_backend",  # another kernel of the same attention
    "pos_emb_learnable",  # read only by position embeddings other than the rotary one
    "pos_emb_interpolation",
    "min_fps",
    "max_fps",
    "extra_h_extrapolation_ratio",  # read only with extra_per_block_abs_pos_emb
    "extra_w_extrapolation_ratio",
    "extra_t_extrapolation_ratio",
}
_ONLY_VALUE: dict[str, object] = {
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "extra_per_block_abs_pos_emb": False,
    "natten_parameters": None,
}


def architecture_from_reference(kwargs: Mapping[str, Any]) -> DiTArchitecture:
    """The record of numbers from constructor arguments of the reference's Video2World network.

    Arguments that have no effect there are ignored by name.

    Raises:
        BadConfig: an argument is unknown, missing, or asks for something that this network does not compute.
    """
    known = {field.name for field in fields(DiTArchitecture)}
    missing = {"model_channels", "num_blocks", "num_heads"} - set(kwargs)
    if missing:
        raise BadConfig("network arguments are missing", expected=", ".join(sorted(missing)))
    architecture = DiTArchitecture(**{name: value for name, value in kwargs.items() if name in known})
    only_value = {**_ONLY_VALUE, "crossattn_proj_in_channels": architecture.crossattn_emb_channels}
    for name in sorted(set(kwargs) - known - _INERT):
        if name not in only_value:
            raise BadConfig("unknown network argument", got=name, expected=" | ".join(sorted(known | _INERT)))
        if kwargs[name] != only_value[name]:
            raise BadConfig(f"network argument {name} is not supported", got=kwargs[name], expected=only_value[name])
    return architecture
