"""Decoding in strips: the pixels of an undivided decode, in less memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cosmos_core import vae_strips
from cosmos_core.architecture import VAEArchitecture
from cosmos_core.vae import VideoVAE

TOKENIZER = Path(__file__).parents[1] / "golden" / "tokenizer"
ARCHITECTURE = VAEArchitecture(dim=json.loads((TOKENIZER / "config.json").read_text())["vae_kwargs"]["dim"])


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.randn(1, 16, 3, 12, 4, generator=torch.Generator().manual_seed(0))


def vae(dtype: torch.dtype = torch.float32) -> VideoVAE:
    return VideoVAE.load(TOKENIZER / "state_dict.safetensors", ARCHITECTURE, dtype=dtype)


@pytest.mark.parametrize("strip_rows", [4, 9, 24])
def test_strips_of_any_height_give_the_pixels_of_an_undivided_decode(latents, strip_rows) -> None:
    """The picture has 24 rows where strips are cut: even, uneven and undivided."""
    whole, strips = vae(), vae()
    strips.strip_rows = strip_rows
    expected = whole.decode(latents)
    assert expected.std() > 0.1
    torch.testing.assert_close(strips.decode(latents), expected, rtol=0, atol=3e-6)


def test_one_row_of_overlap_less_would_show(latents, monkeypatch) -> None:
    """The overlap is exactly what the convolutions need: not a row is missing, and none too many."""
    strips = vae()
    expected = strips.decode(latents)
    strips.strip_rows = 8
    needed = vae_strips._rows_of_overlap(strips._layers.decoder)
    assert needed == 6
    monkeypatch.setattr(vae_strips, "_rows_of_overlap", lambda decoder: needed - 1)
    assert (strips.decode(latents) - expected).abs().max() > 1e-5


def test_bfloat16_strips_differ_from_an_undivided_decode_by_its_rounding(latents) -> None:
    exact = vae().decode(latents)
    rounded = vae(torch.bfloat16)
    whole = rounded.decode(latents)
    rounded.strip_rows = 8
    rounding = (whole - exact).abs().max()
    assert (rounded.decode(latents) - whole).abs().max() <= rounding


def test_the_golden_video_comes_out_as_well() -> None:
    golden = load_file(TOKENIZER / "t9.safetensors")
    strips = vae()
    strips.strip_rows = 4
    video = strips.decode(golden["in.random_latent"])
    torch.testing.assert_close(video, golden["out.decode_of_random_latent"], rtol=0, atol=1e-5)
