"""A full-size model of random values in the reference's own files and layout, to try loading, memory and speed.

    python -m benchmarks.synthetic_checkpoint --model 2B --root checkpoints --lora checkpoints/its/iter_000001000.pt

Writes the base checkpoint, `tokenizer/tokenizer.pth` and a text encoder of full width but few layers, so that only the
4.9 billion parameters of T5-11B are missing. With `--lora` also a LoRA training checkpoint: the base weights under
`base_layer`, rank 16 adapters, counters and `_extra_state` entries as training writes them. What it generates is noise.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from cosmos_core.architecture import MODELS, ModelArchitecture, VAEArchitecture
from cosmos_core.dit import DiT
from cosmos_core.lora_state_dict import DEFAULT_TARGETS
from cosmos_core.vae import build_layers, native_key_map

_COUNTERS = ("accum_video_sample_counter", "accum_image_sample_counter", "accum_iteration")


def random_dit(architecture: ModelArchitecture, device: torch.device) -> dict[str, Tensor]:
    """Tensors of the transformer under plain names, bfloat16, scaled so that activations stay of order one."""
    with torch.device("meta"):
        shapes = DiT(architecture.dit).state_dict()
    generator = torch.Generator(device).manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for name, like in shapes.items():
        if like.ndim == 1:
            tensors[name] = torch.ones(like.shape, dtype=torch.bfloat16)
            continue
        scale = 0.5 / math.sqrt(like.shape[-1])
        values = torch.randn(like.shape, device=device, generator=generator) * scale
        tensors[name] = values.to("cpu", torch.bfloat16)
    return tensors


def training_layout(network: dict[str, Tensor], *, rank: int | None = None) -> dict[str, Tensor]:
    """The flat dictionary that training saves: prefix, counters, extra states, and with a rank LoRA matrices."""
    targets = tuple(DEFAULT_TARGETS.split(","))
    generator = torch.Generator().manual_seed(1)
    saved: dict[str, Tensor] = {f"net.{name}": torch.zeros((), dtype=torch.int64) for name in _COUNTERS}
    for name, tensor in network.items():
        module = name.removesuffix(".weight")
        if name.endswith("norm.weight"):
            saved[f"net.{module}._extra_state"] = torch.zeros(0)
        if rank is None or not any(f".{module}".endswith(f".{target}") for target in targets):
            saved[f"net.{name}"] = tensor
            continue
        out_features, in_features = tensor.shape
        saved[f"net.{module}.base_layer.weight"] = tensor
        a = torch.randn(rank, in_features, generator=generator) / math.sqrt(in_features)
        b = torch.randn(out_features, rank, generator=generator) * 0.02
        saved[f"net.{module}.lora_A.default.weight"] = a.to(torch.bfloat16)
        saved[f"net.{module}.lora_B.default.weight"] = b.to(torch.bfloat16)
    return saved


def random_vae(architecture: VAEArchitecture) -> dict[str, Tensor]:
    """Tensors of the video VAE under the names of `tokenizer.pth`: random kernels, unit norms, no biases."""
    generator = torch.Generator().manual_seed(2)
    layers = build_layers(architecture)
    shapes = layers.state_dict()
    tensors: dict[str, Tensor] = {}
    for native, ours in native_key_map(layers).items():
        shape = shapes[ours].shape
        if native.endswith("gamma"):
            tensors[native] = torch.ones(shape, dtype=torch.bfloat16)
        elif len(shape) == 1:
            tensors[native] = torch.zeros(shape, dtype=torch.bfloat16)
        else:
            scale = math.prod(shape[1:]) ** -0.5
            tensors[native] = (torch.randn(shape, generator=generator) * scale).to(torch.bfloat16)
    return tensors


def write_text_encoder(folder: Path, *, width: int, tokenizer_from: Path) -> None:
    """A T5 encoder of the real width with one layer, and the tokenizer of another model."""
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, local_files_only=True)
    torch.manual_seed(3)
    config = T5Config(
        d_model=width, d_ff=4 * width, d_kv=64, num_heads=16, num_layers=1, vocab_size=max(len(tokenizer), 512)
    )
    T5EncoderModel(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a full-size model of random values.")
    parser.add_argument("--model", choices=sorted(MODELS), default="2B")
    parser.add_argument("--root", type=Path, default=Path("checkpoints"))
    parser.add_argument("--resolution", default="720")
    parser.add_argument("--fps", type=int, default=16)
    parser.add_argument("--lora", type=Path, help="also write a LoRA training checkpoint here")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with a tokenizer")
    arguments = parser.parse_args()
    architecture = MODELS[arguments.model]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = arguments.root / architecture.repository
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    network = random_dit(architecture, device)
    torch.save(training_layout(network), folder / architecture.checkpoint_name(arguments.resolution, arguments.fps))
    if arguments.lora:
        arguments.lora.parent.mkdir(parents=True, exist_ok=True)
        torch.save(training_layout(network, rank=arguments.rank), arguments.lora)
    torch.save(random_vae(architecture.vae), folder / "tokenizer" / "tokenizer.pth")
    write_text_encoder(
        arguments.root / architecture.text_encoder,
        width=architecture.dit.crossattn_emb_channels,
        tokenizer_from=arguments.tokenizer,
    )
    count = sum(tensor.numel() for tensor in network.values())
    print(f"{architecture.name}: {count:,} parameters of the transformer in {folder}")


if __name__ == "__main__":
    main()
