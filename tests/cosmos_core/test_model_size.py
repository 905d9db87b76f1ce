"""Counts from the architecture against the networks themselves, built without values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from cosmos_core import tiny
from cosmos_core.architecture import MODELS, TextEncoderArchitecture
from cosmos_core.dit import DiT
from cosmos_core.geometry import video_geometry
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.model_size import (
    adapted_parameters,
    dit_parameters,
    forward_flops,
    lora_parameters,
    num_forwards,
    text_encoder_parameters,
    vae_parameters,
)
from cosmos_core.quantize import large_linears
from cosmos_core.vae import build_layers

models = pytest.mark.parametrize("name", sorted(MODELS))


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@models
def test_the_transformer_and_its_large_linears(name: str) -> None:
    with torch.device("meta"):
        network = DiT(MODELS[name].dit)
    assert dit_parameters(MODELS[name].dit) == count(network)
    assert adapted_parameters(MODELS[name].dit) == sum(layer.weight.numel() for _, layer in large_linears(network))
    shapes = adapter_shapes(network, LoraSpec(rank=16, alpha=16))
    assert lora_parameters(MODELS[name].dit, 16) == sum(rows * columns for rows, columns in shapes.values())


@models
def test_the_video_vae(name: str) -> None:
    assert vae_parameters(MODELS[name].vae) == count(build_layers(MODELS[name].vae))


@pytest.mark.parametrize("text", {MODELS["2B"].text, MODELS["tiny"].text, MODELS["micro"].text}, ids=lambda t: t.dim)
def test_the_text_encoder(text: TextEncoderArchitecture) -> None:
    config = T5Config(
        d_model=text.dim,
        d_ff=text.hidden_dim,
        num_layers=text.num_layers,
        num_heads=text.num_heads,
        d_kv=text.head_dim,
        vocab_size=text.vocabulary,
        feed_forward_proj="gated-gelu" if text.gated else "relu",
    )
    with torch.device("meta"):
        assert text_encoder_parameters(text) == count(T5EncoderModel(config))


def test_the_shipped_text_encoders_have_these_numbers(micro_root: Path) -> None:
    shipped = Path(tiny.__file__).parent / "tiny_weights" / "text_encoder" / "config.json"
    made = micro_root / MODELS["micro"].text_encoder / "config.json"
    for name, path in (("tiny", shipped), ("micro", made)):
        config, text = json.loads(path.read_text()), MODELS[name].text
        assert (config["d_model"], config["d_ff"], config["num_layers"]) == (text.dim, text.hidden_dim, text.num_layers)
        assert (config["num_heads"], config["d_kv"]) == (text.num_heads, text.head_dim)
        assert (config["vocab_size"], bool(config.get("is_gated_act"))) == (text.vocabulary, text.gated)


def test_published_sizes() -> None:
    assert dit_parameters(MODELS["2B"].dit) == 1_956_413_440
    assert dit_parameters(MODELS["14B"].dit) == 14_265_285_632
    assert text_encoder_parameters(MODELS["14B"].text) == 4_864_791_552
    assert lora_parameters(MODELS["2B"].dit, 16) == 22_937_600


def test_operations_of_the_measured_forward(repository: Path) -> None:
    measured = json.loads((repository / "benchmarks/results/h200-forward.json").read_text())["rows"]
    for row in measured:
        model, resolution, fps, _ = row["variant"].split()
        geometry = video_geometry(model=model, resolution=resolution.rstrip("p"), fps=int(fps), aspect_ratio="16:9")
        assert forward_flops(MODELS[model].dit, geometry) / 1e12 == pytest.approx(row["tflop_per_forward"])


def test_forwards_of_a_video() -> None:
    assert num_forwards(num_steps=35, guided=True) == 72
    assert num_forwards(num_steps=10, guided=False, num_chunks=3) == 33
