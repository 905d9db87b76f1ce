"""Train the diffusion transformer: the base on ordinary traffic, or an adapter on one family of incidents.

    python -m examples.tiny_model.train_transformer build/tiny
    python -m examples.tiny_model.train_transformer build/tiny --adapter t_bone

Rectified flow as the reference trains it: x_t = (1 - t) x0 + t n, the network answers with n - x0, the first latent
frame (sometimes the first two) is given clean at a time near zero and left out of the error. A share of the clips loses
its text, for guidance. Matrices of the blocks are trained by Muon, everything else by AdamW.

Legend: B batch, C latent channels, T latent frames, H W latent height and width, L text tokens, D text width.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from cosmos_core.architecture import MODELS
from cosmos_core.checkpoint import base_network
from cosmos_core.conditioning import SIGMA_CONDITIONAL, replace_frames
from cosmos_core.dit import DiT
from cosmos_core.lora import activate, adapter_shapes, add_adapter
from cosmos_core.lora_state_dict import LoraSpec
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.weights_file import read_state_dict
from examples.tiny_model.adapter_export import LORA_ALPHA, LORA_RANK, export_adapter
from examples.tiny_model.clip_files import ORDINARY
from examples.tiny_model.latent_bank import LatentBank, Sample
from examples.tiny_model.mixed_precision import MasterWeights
from examples.tiny_model.muon import BatchedMuon
from examples.tiny_model.pieces import Piece, load_state, save_state, set_learning_rate
from examples.tiny_model.preview import save_preview
from examples.tiny_model.vae_export import VAE_FILE, load_vae

__all__ = ["main", "new_transformer", "velocity_error"]

_MODEL = MODELS["tiny"]
_LORA = LoraSpec(rank=LORA_RANK, alpha=LORA_ALPHA)
_TIME_MEAN, _TIME_STD = 0.6, 1.3
"""Of the logit of the training time t."""
_TWO_FRAMES = 0.1
"""Share of batches that condition on two latent frames, as five pixel frames give them."""
_NUM_HELD_OUT = 16


def new_transformer(seed: int, device: torch.device) -> DiT:
    """A network that begins as the zero function: gates of all blocks and the last layer are zero."""
    torch.manual_seed(seed)
    dit = DiT(_MODEL.dit, rope_table_dtype=torch.float32)
    for name, weight in dit.named_parameters():
        if name == "final_layer.linear.weight" or (".adaln_modulation" in f".{name}" and name.endswith(".2.weight")):
            nn.init.zeros_(weight)
        elif name.startswith("t_embedder"):
            nn.init.normal_(weight, std=0.02)
    return dit.to(device)


def velocity_error(
    dit: DiT, sample: Sample, t_B: Tensor, noise_BCTHW: Tensor, *, num_conditional_latents: int
) -> Tensor:
    """Mean squared error of the velocity, over the frames that are not given.

    Args:
        dit: the network.
        sample: latents and text.
        t_B: times between 0 (clean) and 1 (noise).
        noise_BCTHW: unit noise, float32.
        num_conditional_latents: frames that are given clean.
    """
    clean = sample.latents.float()
    given = num_conditional_latents
    t = t_B[:, None, None, None, None]
    latents = replace_frames((1 - t) * clean + t * noise_BCTHW, clean[:, :, :given])
    times = t_B[:, None].repeat(1, clean.shape[2])
    times[:, :given] = SIGMA_CONDITIONAL / (1 + SIGMA_CONDITIONAL)
    mask = torch.zeros_like(clean[:, :1])
    mask[:, :, :given] = 1
    velocity = dit(latents, times, sample.text, condition_mask_B1THW=mask)
    return (velocity.float() - (noise_BCTHW - clean))[:, :, given:].square().mean()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for a piece; run again to go on."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.train_transformer", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of clips, states and results")
    parser.add_argument("--adapter", metavar="FAMILY", help="train a LoRA adapter on that family of incidents")
    Piece.add_options(parser, steps=7000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=12000, help="how many to learn from")
    parser.add_argument("--first-clips", type=int, default=1000, help="how many to wait for")
    parser.add_argument("--muon-rate", type=float, default=2e-3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--text-dropout", type=float, default=0.12)
    parser.add_argument("--preview-every", type=int, default=1500)
    parser.add_argument("--start-from", type=Path, help="base checkpoint to go on from, with a new schedule")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = options.adapter or "base"

    dit, master = (
        _base(device, options.start_from)
        if options.adapter is None
        else _adapter(options.work, options.adapter, device)
    )
    optimizers = _optimizers(dit, master, options.muon_rate if options.adapter is None else None, options.learning_rate)
    piece = Piece.of(options)
    state_path = options.work / f"{name}-state.pt"
    if state := load_state(state_path, device):
        master.load_state_dict(state["master"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        piece.resume(state["piece"])
    if not options.no_compile:
        for block in dit.blocks:
            block.compile(dynamic=False)

    bank = LatentBank(
        options.work / "clips",
        options.adapter or ORDINARY,
        options.clips,
        layers=load_vae(options.work / "model" / VAE_FILE, device=device),
        text_encoder=TextEncoder.load(
            options.work / "model" / "text_encoder", device=device, max_length=_MODEL.text_length
        ),
        num_held_out=_NUM_HELD_OUT,
    )
    bank.wait_for(min(options.first_clips, options.clips))
    print(f"{name}: {len(bank)} clips encoded after {piece.seconds:.0f} s", flush=True)
    generator = np.random.default_rng([piece.step, 1])
    torch.manual_seed(piece.step)
    errors: list[Tensor] = []
    piece.begin()
    while piece.goes_on:
        for optimizer in optimizers:
            set_learning_rate(optimizer, piece.share)
        sample = bank.sample(options.batch, generator, text_dropout=options.text_dropout)
        t_B = torch.sigmoid(_TIME_MEAN + _TIME_STD * torch.randn(options.batch, device=device))
        noise = torch.randn(sample.latents.shape, device=device)
        given = 2 if generator.random() < _TWO_FRAMES else 1
        error = velocity_error(dit, sample, t_B, noise, num_conditional_latents=given)
        error.backward()
        errors.append(error.detach())
        norm = master.take_gradients(max_norm=1.0)
        for optimizer in optimizers:
            optimizer.step()
        master.give_weights()
        piece.step += 1
        if piece.every(10):
            bank.poll(24)
        if piece.every(200):
            mean_error = torch.stack(errors).mean()
            errors.clear()
            print(
                f"{name} step {piece.step} {piece.seconds:.0f} s: error {mean_error:.4f}, gradient {norm:.3f}, "
                f"{len(bank)} clips",
                flush=True,
            )
        if piece.every(options.preview_every):
            _publish(options.work, name, dit, master)
            save_preview(options.work, name, bank, _averaged(options.work, options.adapter, master, device))
    state = {
        "master": master.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "piece": piece.state(),
    }
    save_state(state_path, state)
    _publish(options.work, name, dit, master)
    if options.adapter is not None:
        export_adapter(options.work, options.adapter)
    save_preview(options.work, name, bank, _averaged(options.work, options.adapter, master, device))


def _base(device: torch.device, start_from: Path | None) -> tuple[DiT, MasterWeights]:
    dit = new_transformer(0, device)
    if start_from is not None:
        dit.load_state_dict(base_network(read_state_dict(start_from), source=str(start_from)))
    master = MasterWeights(dit)
    return dit.to(torch.bfloat16), master


def _adapter(work: Path, family: str, device: torch.device) -> tuple[DiT, MasterWeights]:
    """The published base with an adapter that changes nothing yet; only the adapter learns."""
    dit = _load_base(work, device)
    tensors: dict[str, Tensor] = {}
    torch.manual_seed(0)
    for name, shape in adapter_shapes(dit, _LORA).items():
        tensors[name] = torch.zeros(shape) if name.endswith("lora_B") else torch.randn(shape) * shape[1] ** -0.5
    add_adapter(dit, tensors, _LORA, name="default", dtype=torch.float32)
    activate(dit, {"default": 1.0})
    for name, weight in dit.named_parameters():
        weight.requires_grad_(".lora_" in name)
    master = MasterWeights(dit)
    return dit.to(torch.bfloat16), master


def _load_base(work: Path, device: torch.device) -> DiT:
    dit = DiT(_MODEL.dit, rope_table_dtype=torch.float32)
    weights = load_file(work / "model" / _MODEL.checkpoint_name("112", 10))
    dit.load_state_dict({name.removeprefix("net."): value for name, value in weights.items()}, assign=True)
    return dit.to(device, torch.bfloat16).requires_grad_(False)


def _optimizers(dit: DiT, master: MasterWeights, muon_rate: float | None, rate: float) -> list[Optimizer]:
    matrices, others = master.split(
        name for name in master.weights if muon_rate and name.startswith("blocks.") and name.endswith(".weight")
    )
    vectors = {name: matrices.pop(name) for name in list(matrices) if matrices[name].ndim != 2}
    optimizers: list[Optimizer] = []
    if matrices:
        muon = [{"params": list(matrices.values()), "peak_lr": muon_rate}]
        optimizers.append(BatchedMuon(muon, lr=muon_rate or 0.0, weight_decay=0.01))
    adam = [{"params": [*others.values(), *vectors.values()], "peak_lr": rate}]
    fused = next(dit.parameters()).is_cuda
    optimizers.append(torch.optim.AdamW(adam, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused))
    return optimizers


def _publish(work: Path, name: str, dit: DiT, master: MasterWeights) -> None:
    """Write the averaged weights, bfloat16: the base checkpoint, or the adapter's matrices alone."""
    averaged: Mapping[str, Tensor] = master.averaged()
    weights = {f"net.{key}": value.to("cpu", torch.bfloat16).contiguous() for key, value in averaged.items()}
    path = work / "model" / _MODEL.checkpoint_name("112", 10) if name == "base" else work / f"lora-{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def _averaged(work: Path, adapter: str | None, master: MasterWeights, device: torch.device) -> DiT:
    """A network of the averaged weights, to look at."""
    if adapter is None:
        return _load_base(work, device)
    dit, _ = _adapter(work, adapter, device)
    state_dict = dit.state_dict()
    averaged = {name: value.bfloat16() for name, value in master.averaged().items()}
    assert averaged.keys() <= state_dict.keys(), "the average belongs to another network"
    dit.load_state_dict({**state_dict, **averaged})
    return dit


if __name__ == "__main__":
    main()
