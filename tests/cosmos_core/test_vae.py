"""The video VAE against the reference, and the properties that generation relies on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.golden_set import relative_l2
from cosmos_core.architecture import VAEArchitecture
from cosmos_core.errors import BadRequest, CheckpointMismatch, CheckpointMissing
from cosmos_core.vae import LATENT_MEAN, LATENT_STD, VideoVAE, build_layers, native_key_map

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = json.loads((GOLDEN / "tokenizer/config.json").read_text())
ARCHITECTURE = VAEArchitecture(dim=CONFIG["vae_kwargs"]["dim"])
STATE_DICT = GOLDEN / "tokenizer/state_dict.safetensors"


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return VideoVAE.load(STATE_DICT, ARCHITECTURE, dtype=torch.float32)


@pytest.mark.parametrize("case", CONFIG["cases"])
def test_encode_and_decode_match_the_reference(vae: VideoVAE, case: str) -> None:
    golden = load_file(GOLDEN / f"tokenizer/{case}.safetensors")
    assert relative_l2(vae.encode(golden["in.video"]), golden["out.latent"]) < 5e-6
    assert relative_l2(vae.decode(golden["in.random_latent"]), golden["out.decode_of_random_latent"]) < 1e-5
    if "out.decode_of_latent" in golden:
        assert relative_l2(vae.decode(golden["out.latent"]), golden["out.decode_of_latent"]) < 1e-5


def test_bfloat16_stays_close_to_the_reference() -> None:
    golden = load_file(GOLDEN / "tokenizer/t9.safetensors")
    vae = VideoVAE.load(STATE_DICT, ARCHITECTURE, dtype=torch.bfloat16)
    latents = vae.encode(golden["bf16.in_video"])
    assert latents.dtype == torch.bfloat16
    assert relative_l2(latents.float(), golden["bf16.latent"].float()) < 1e-1
    video = vae.decode(golden["in.random_latent"])
    assert video.dtype == torch.float32
    assert relative_l2(video, golden["bf16.decode_of_random_latent"].float()) < 1e-1


def test_latent_statistics_are_the_reference_ones() -> None:
    assert list(LATENT_MEAN) == CONFIG["latent_mean"]
    assert list(LATENT_STD) == CONFIG["latent_std"]


def test_what_comes_later_does_not_reach_earlier_latents(vae: VideoVAE) -> None:
    video = load_file(GOLDEN / "tokenizer/t17.safetensors")["in.video"]
    whole = vae.encode(video)
    for num_frames, num_latents in ((1, 1), (5, 2), (13, 4)):
        torch.testing.assert_close(vae.encode(video[:, :, :num_frames]), whole[:, :, :num_latents], rtol=0, atol=1e-6)


def test_decoding_is_not_clamped() -> None:
    state_dict = load_file(STATE_DICT)
    state_dict["decoder.head.2.bias"] += 5
    vae = VideoVAE.from_state_dict(state_dict, ARCHITECTURE, dtype=torch.float32)
    assert vae.decode(load_file(GOLDEN / "tokenizer/t1.safetensors")["in.random_latent"]).min() > 1


@pytest.mark.parametrize("shape", [(1, 3, 4, 24, 32), (1, 3, 5, 20, 32), (1, 3, 5, 24, 30)])
def test_sizes_that_do_not_fit_are_refused(vae: VideoVAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadRequest, match="size of a video to encode"):
        vae.encode(torch.zeros(shape))


def test_names_and_shapes_of_the_full_size_vae() -> None:
    layout = json.loads((GOLDEN / "layout/tokenizer_full.json").read_text())
    layers = build_layers(VAEArchitecture())
    tensors = layers.state_dict()
    names = native_key_map(layers)
    assert {native: list(tensors[name].shape) for native, name in names.items()} == layout["state_dict"]
    assert len(set(names.values())) == len(tensors) == len(layout["state_dict"])
    assert sum(tensor.numel() for tensor in tensors.values()) == layout["num_parameters"]


def test_loading_is_strict(tmp_path: Path) -> None:
    state_dict = load_file(STATE_DICT)
    lacking = {key: value for key, value in state_dict.items() if key != "decoder.head.2.bias"}
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(decoder.head.2.bias"):
        VideoVAE.from_state_dict(lacking, ARCHITECTURE)
    with pytest.raises(CheckpointMismatch, match=r"1 unexpected \(surprise"):
        VideoVAE.from_state_dict({**state_dict, "surprise": torch.zeros(1)}, ARCHITECTURE)
    with pytest.raises(CheckpointMismatch, match="another size"):
        VideoVAE.from_state_dict(state_dict, VAEArchitecture(dim=12))
    with pytest.raises(CheckpointMissing):
        VideoVAE.load(tmp_path / "tokenizer.pth", ARCHITECTURE)


def test_both_file_types_give_the_same(tmp_path: Path, vae: VideoVAE) -> None:
    state_dict = load_file(STATE_DICT)
    torch.save(state_dict, tmp_path / "tokenizer.pth")
    save_file(state_dict, tmp_path / "tokenizer.safetensors")
    video = load_file(GOLDEN / "tokenizer/t5.safetensors")["in.video"]
    for name in ("tokenizer.pth", "tokenizer.safetensors"):
        other = VideoVAE.load(tmp_path / name, ARCHITECTURE, dtype=torch.float32)
        assert torch.equal(other.encode(video), vae.encode(video))
