"""What the training of the tiny model rests on: the VAE over whole clips, master weights, pieces, the objective."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from cosmos_core.architecture import VAEArchitecture
from cosmos_core.vae import VideoVAE, build_layers
from examples.tiny_model.latent_bank import Sample
from examples.tiny_model.mixed_precision import MasterWeights
from examples.tiny_model.pieces import Piece, load_state, save_state, set_learning_rate
from examples.tiny_model.train_text_encoder import target_text, train_tokenizer
from examples.tiny_model.train_transformer import new_transformer, velocity_error
from examples.tiny_model.train_vae import reconstruction_loss
from examples.tiny_model.vae_export import fold_normalisation, latent_statistics
from examples.tiny_model.vae_sequence import decode_sequence, encode_sequence, trainable_layers

SMALL = VAEArchitecture(dim=16, dim_mult=(1, 2, 3, 3), num_res_blocks=1)


def product_vae(layers: nn.Module) -> VideoVAE:
    """The product's VAE with the same weights."""
    plain = build_layers(SMALL)
    plain.load_state_dict({name: value.detach().clone() for name, value in layers.state_dict().items()}, assign=True)
    return VideoVAE(plain)


@pytest.mark.parametrize("num_frames", [1, 5, 17])
def test_a_clip_at_once_is_the_product_s_chunks(num_frames: int) -> None:
    layers = trainable_layers(SMALL, seed=0, device="cpu")
    video = torch.rand(1, 3, num_frames, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, _ = encode_sequence(layers, video)
    vae = product_vae(layers)
    latents = vae.encode(video)
    torch.testing.assert_close((mean - vae._mean) * vae._inverse_std, latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode_sequence(layers, mean), vae.decode(latents), rtol=1e-4, atol=1e-4)


def test_folded_latents_have_mean_0_and_deviation_1_and_decode_to_the_same_pixels() -> None:
    layers = trainable_layers(SMALL, seed=0, device="cpu")
    video = torch.rand(2, 3, 9, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    before = decode_sequence(layers, encode_sequence(layers, video)[0]).detach()
    mean, std = latent_statistics(layers, [video])
    fold_normalisation(layers, mean, std)
    vae = product_vae(layers)
    latents = torch.cat([vae.encode(clip[None]) for clip in video])
    assert latents.mean(dim=(0, 2, 3, 4)).abs().max() < 1e-3
    assert (latents.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 1e-3
    torch.testing.assert_close(vae.decode(latents[:1]), before[:1], rtol=1e-3, atol=1e-3)


def test_the_loss_weighs_what_moves() -> None:
    video = torch.zeros(1, 3, 5, 8, 8)
    video[:, :, 2:, :4, :4] = 1.0
    still, moving = video.clone(), video.clone()
    still[..., 6, 6] += 0.5
    moving[..., 2, 2] += 0.5
    assert reconstruction_loss(video, video) == 0
    assert reconstruction_loss(moving, video) > 3 * reconstruction_loss(still, video)


def test_small_updates_are_kept_that_bfloat16_would_lose() -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    master = MasterWeights(network)
    network.bfloat16()
    optimizer = torch.optim.SGD(master.weights.values(), lr=1e-3)
    for _ in range(100):
        network(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        master.take_gradients(max_norm=10.0)
        optimizer.step()
        master.give_weights()
    assert master.weights["weight"].item() == pytest.approx(0.9, abs=1e-4)
    assert network.weight.item() == pytest.approx(0.9, abs=4e-3)
    assert 0.9 < master.averaged()["weight"].item() < 1.0


def test_a_training_goes_on_from_its_state(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    master = MasterWeights(network)
    master.weights["bias"].data += 1
    save_state(tmp_path / "state.pt", {"master": master.state_dict(), "step": 3})
    other = nn.Linear(2, 1)
    again = MasterWeights(other)
    state = load_state(tmp_path / "state.pt", torch.device("cpu"))
    assert state is not None
    again.load_state_dict(state["master"])
    assert torch.equal(again.weights["bias"], master.weights["bias"])
    assert torch.equal(other.bias, master.weights["bias"])
    assert load_state(tmp_path / "none.pt", torch.device("cpu")) is None


def test_a_piece_ends_in_time_and_a_training_after_its_steps() -> None:
    piece = Piece(num_steps=2, train_minutes=0.0, minutes=60.0)
    piece.step = 1
    assert piece.goes_on
    assert (piece.share, piece.every(2)) == (0.5, False)
    piece.step = 2
    assert piece.finished
    assert not piece.goes_on
    assert not Piece(num_steps=2, train_minutes=0.0, minutes=0.0).goes_on


def test_a_training_of_some_minutes_counts_those_of_earlier_pieces() -> None:
    first = Piece(num_steps=None, train_minutes=10.0, minutes=60.0)
    first.started -= 240
    assert first.share == pytest.approx(0.4, abs=0.01)
    second = Piece(num_steps=None, train_minutes=10.0, minutes=60.0)
    second.resume(first.state())
    second.started -= 240
    assert second.share == pytest.approx(0.8, abs=0.01)
    second.started -= 240
    assert second.finished


def test_the_learning_rate_rises_stays_and_falls() -> None:
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "peak_lr": 2.0}], lr=1.0)
    rates = []
    for share in (0.0, 0.005, 0.3, 0.75, 1.0):
        set_learning_rate(optimizer, share)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.02, 1.02, 2.0, 1.0, 0.002])


class TestTransformer:
    """The objective."""

    def test_begins_as_the_zero_function(self) -> None:
        dit = new_transformer(0, torch.device("cpu"))
        sample = Sample(torch.randn(1, 16, 2, 4, 4), torch.randn(1, 3, 128))
        noise = torch.randn(1, 16, 2, 4, 4)
        error = velocity_error(dit, sample, torch.tensor([0.5]), noise, num_conditional_latents=1)
        expected = (noise - sample.latents)[:, :, 1:].square().mean()
        torch.testing.assert_close(error, expected)

    def test_given_frames_are_clean_and_do_not_count(self) -> None:
        seen: dict[str, torch.Tensor] = {}

        def network(latents, times, text, *, condition_mask_B1THW):
            seen.update(latents=latents, times=times, mask=condition_mask_B1THW)
            return torch.zeros_like(latents)

        sample = Sample(torch.ones(1, 16, 3, 4, 4), torch.zeros(1, 3, 128))
        noise = torch.full((1, 16, 3, 4, 4), 3.0)
        error = velocity_error(network, sample, torch.tensor([0.25]), noise, num_conditional_latents=1)  # type: ignore[arg-type]
        assert error == pytest.approx(4.0)
        assert (seen["latents"][:, :, 0] == 1).all()
        assert (seen["latents"][:, :, 1:] == 1.5).all()
        assert seen["times"][0].tolist() == pytest.approx([1e-4, 0.25, 0.25], rel=1e-3)
        assert seen["mask"][0, 0, :, 0, 0].tolist() == [1, 0, 0]


class TestTokenizer:
    """Trained on captions, but able to spell everything."""

    def test_spells_what_it_never_saw(self) -> None:
        tokenizer = train_tokenizer([f"a red sedan number {n} turns left at night in the rain" for n in range(200)])
        for text in ("a red sedan", "Überholverbot 42!", "東京"):
            encoding = tokenizer.encode(text)
            assert encoding.tokens[-1] == "</s>"
            assert "<unk>" not in encoding.tokens
            assert tokenizer.decode(encoding.ids[:-1], skip_special_tokens=False).strip() == text.lower()
        assert tokenizer.encode("A red sedan.").tokens == ["▁a", "▁red", "▁sedan", ".", "</s>"]

    def test_targets_name_the_labels(self) -> None:
        labels = {
            "layout": "highway",
            "time_of_day": "night",
            "weather": "fog",
            "incident": None,
            "subject_colour": "red",
            "subject_kind": "van",
            "subject_direction": "left",
            "colours": ["red", "blue"],
        }
        assert target_text(labels) == (
            "layout highway; time night; weather fog; incident none; subject red van left; colours red blue"
        )
