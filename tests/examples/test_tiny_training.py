"""What the training of the tiny model rests on: the VAE over whole clips, master weights, pieces, the objective."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cosmos_core import tiny
from cosmos_core.adapter_file import read_adapter
from cosmos_core.architecture import MODELS, VAEArchitecture
from cosmos_core.lora import adapter_shapes
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.tiny import install_tiny
from cosmos_core.vae import VideoVAE, build_layers
from examples.tiny_model import publish, train_vae
from examples.tiny_model.adapter_export import ADAPTER_OF, export_adapter
from examples.tiny_model.latent_bank import Sample
from examples.tiny_model.mixed_precision import MasterWeights
from examples.tiny_model.pieces import Piece, load_state, save_state, set_learning_rate
from examples.tiny_model.train_text_encoder import target_text, train_tokenizer
from examples.tiny_model.train_transformer import new_transformer, velocity_error
from examples.tiny_model.train_vae import reconstruction_loss
from examples.tiny_model.vae_export import VAE_FILE, fold_normalisation, latent_statistics, save_vae
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


def test_folding_scales_the_encoder_s_noise_with_its_latents() -> None:
    layers = trainable_layers(SMALL, seed=0, device="cpu")
    video = torch.rand(1, 3, 5, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, log_variance = encode_sequence(layers, video)
    before = log_variance.exp() / mean.var(dim=(0, 2, 3, 4), keepdim=True)
    fold_normalisation(layers, *latent_statistics(layers, [video]))
    mean, log_variance = encode_sequence(layers, video)
    torch.testing.assert_close(
        log_variance.exp() / mean.var(dim=(0, 2, 3, 4), keepdim=True), before, rtol=1e-3, atol=1e-6
    )


def write_clips(folder: Path, num_frames: int) -> None:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 48, 3), dtype=np.uint8)
    np.save(folder / "ordinary-00000001.npy", pixels)
    (folder / "ordinary-00000001.json").write_text("{}")


def test_a_decoder_trained_alone_leaves_the_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(MODELS["tiny"], vae=SMALL)
    monkeypatch.setitem(MODELS, "tiny", small)
    start = tmp_path / "start.safetensors"
    save_vae(trainable_layers(SMALL, seed=1, device="cpu"), start)
    write_clips(tmp_path / "clips", 5)
    options = f"--decoder-only --start-from {start} --windows 0:5 --frames 5 --steps 2 --families ordinary --clips 1"
    train_vae.main([str(tmp_path), *options.split()])
    before, after = load_file(start), load_file(tmp_path / "model" / VAE_FILE)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert all(name.startswith(("decoder.", "conv2.")) for name in changed)
    with pytest.raises(SystemExit):
        train_vae.main([str(tmp_path), "--decoder-only"])


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


def test_a_trained_adapter_is_extracted_from_a_training_checkpoint(tmp_path: Path) -> None:
    dit = new_transformer(0, torch.device("cpu"))
    (tmp_path / "model").mkdir()
    base = {f"net.{name}": value.detach().bfloat16() for name, value in dit.named_parameters()}
    save_file(base, tmp_path / "model" / MODELS["tiny"].checkpoint_name("112", 10))
    shapes = adapter_shapes(dit, LoraSpec(rank=16, alpha=16))
    matrices = {name: torch.full(shape, 0.5).bfloat16() for name, shape in shapes.items()}
    save_file(
        {f"net.{name}.default.weight": value for name, value in matrices.items()}, tmp_path / "lora-t_bone.safetensors"
    )
    out = export_adapter(tmp_path, "t_bone")
    assert out == tmp_path / "model/adapters/collision.safetensors"
    stored = read_adapter(out)
    assert (stored.spec().rank, stored.spec().alpha) == (16, 16.0)
    assert stored.tensors.keys() == matrices.keys()
    assert all(torch.equal(stored.tensors[name], value) for name, value in matrices.items())


def test_what_is_published_is_what_is_shipped(tmp_path: Path) -> None:
    assert sorted(ADAPTER_OF.values()) == sorted(tiny.ADAPTERS)
    install_tiny(tmp_path / "checkpoints").rename(tmp_path / "model")
    publish.main([str(tmp_path), "--out", str(tmp_path / "out")])
    published = set((tmp_path / "out" / tiny.SUMS).read_text().splitlines())
    shipped = set((tiny.SHIPPED_WEIGHTS / tiny.SUMS).read_text().splitlines())
    assert {line.partition("  ")[2] for line in shipped - published} == {"README.md"}
    assert published <= shipped


SCRIPT = """
import torch
from examples.tiny_model.data_parallel import Processes

processes = Processes.join()
gradients = [torch.full((2, 3), float(processes.rank)), torch.tensor([2.0 * processes.rank])]
processes.average(gradients)
assert torch.equal(gradients[0], torch.full((2, 3), 0.5)), gradients
assert torch.equal(gradients[1], torch.tensor([1.0])), gradients
assert processes.first_says(float(processes.rank) + 7.0) == 7.0
print("agreed", processes.rank, flush=True)
processes.leave()
"""


@pytest.mark.slow
def test_processes_average_gradients_and_go_by_the_first_one_s_clock(tmp_path: Path) -> None:
    script = tmp_path / "processes.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert sorted(run.stdout.split()) == ["0", "1", "agreed", "agreed"]
