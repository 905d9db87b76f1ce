"""Train the video VAE on rendered clips.

    python -m examples.tiny_model.train_vae build/tiny

Mean absolute error of pixels and of their differences to their neighbours, what moves counting five times, and a small
divergence term that keeps latents smooth. The first half sees many short clips, the end few long ones, since decoding
carries more of the past along than short clips hold. Under torchrun every process takes batches of its own.

Legend: B batch, F pixel frames, H W height and width.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.optim import Optimizer

from cosmos_core.architecture import MODELS
from cosmos_core.pixels import to_bytes
from cosmos_core.vae import VideoVAE
from examples.tiny_model.clip_files import finished_clips
from examples.tiny_model.data_parallel import Processes
from examples.tiny_model.mixed_precision import MasterWeights
from examples.tiny_model.muon import BatchedMuon
from examples.tiny_model.pieces import Piece, load_state, save_state, set_learning_rate
from examples.tiny_model.vae_export import VAE_FILE, fold_normalisation, latent_statistics, load_vae, save_vae
from examples.tiny_model.vae_sequence import decode_sequence, encode_sequence, trainable_layers

__all__ = ["ClipBank", "main", "reconstruction_loss"]

_WINDOWS = ("0:5", "0.4:17", "0.7:61")
"""From which share of the training on clips have so many frames."""
_STATISTICS_BATCHES = 32
_NUM_PICTURES = 6
_DIVERGENCE = 5e-5
_EDGES = 1.0
_MOVING = 4.0
_MOVED = 0.08
"""Change of a pixel in [-1, 1] over a clip that counts as motion."""


class ClipBank:
    """Clips of some families on the device, growing while they are rendered.

    Args:
        folder: of the clip files.
        families: whose clips are taken.
        capacity: clips of each family.
        device: where the pixels lie.
    """

    def __init__(self, folder: Path, families: Sequence[str], capacity: int, device: torch.device) -> None:
        self._folder, self._families, self._capacity = folder, tuple(families), capacity
        self.device = device
        self._clips: list[Tensor] = []
        self._seen: set[Path] = set()

    def __len__(self) -> int:
        return len(self._clips)

    @property
    def num_frames(self) -> int:
        """Of every clip."""
        return self._clips[0].shape[0]

    @property
    def full(self) -> bool:
        return len(self._clips) >= self._capacity * len(self._families)

    def poll(self, limit: int = 64) -> int:
        """Take up to `limit` new clips; returns how many are there."""
        if self.full:
            return len(self)
        for family in self._families:
            new = [
                clip for clip in finished_clips(self._folder, family)[: self._capacity] if clip.path not in self._seen
            ]
            for clip in new[:limit]:
                self._seen.add(clip.path)
                self._clips.append(torch.from_numpy(clip.frames()).to(self.device))
        return len(self)

    def windows(self, batch: int, num_frames: int, generator: np.random.Generator) -> Tensor:
        """Random stretches [B, 3, F, H, W] in [-1, 1], bfloat16."""
        stretches = []
        for index in generator.integers(len(self._clips), size=batch):
            clip = self._clips[index]
            start = int(generator.integers(clip.shape[0] - num_frames + 1))
            stretches.append(clip[start : start + num_frames])
        pixels = torch.stack(stretches).permute(0, 4, 1, 2, 3)
        return (pixels.to(torch.bfloat16) / 127.5 - 1.0).contiguous(memory_format=torch.channels_last_3d)


def reconstruction_loss(decoded: Tensor, video: Tensor) -> Tensor:
    """Weighted error of pixels and edges, both [B, 3, F, H, W] in [-1, 1]."""
    decoded, video = decoded.float(), video.float()
    moving = (video.amax(2, keepdim=True) - video.amin(2, keepdim=True)).amax(1, keepdim=True) > _MOVED
    weight = 1.0 + _MOVING * moving
    weight = weight / weight.mean()
    loss = (weight * (decoded - video).abs()).mean()
    for axis in (3, 4):
        difference = (decoded.diff(dim=axis) - video.diff(dim=axis)).abs()
        loss = loss + _EDGES * (weight.narrow(axis, 0, weight.shape[axis] - 1) * difference).mean()
    return loss


def main(arguments: Sequence[str] | None = None) -> None:
    """Train for a piece; run again to go on."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.train_vae", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of clips, states and results")
    Piece.add_options(parser, steps=2500)
    parser.add_argument("--frames", type=int, default=200, help="of a batch, over all its clips")
    parser.add_argument("--muon-rate", type=float, default=6e-3)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--start-from", type=Path, help="file of an earlier VAE")
    parser.add_argument("--decoder-only", action="store_true", help="keep the encoder of --start-from, and its latents")
    parser.add_argument(
        "--windows", nargs="+", type=_window, default=[_window(text) for text in _WINDOWS], metavar="SHARE:FRAMES"
    )
    parser.add_argument("--families", nargs="+", default=["ordinary", "t_bone", "rear_end", "near_miss"])
    parser.add_argument("--clips", type=int, default=800, help="clips of each family")
    options = parser.parse_args(arguments)
    if options.decoder_only and not options.start_from:
        parser.error("--decoder-only keeps an encoder: say which with --start-from")
    processes = Processes.join()
    device = processes.device

    layers = trainable_layers(MODELS["tiny"].vae, seed=0, device=device)
    if options.start_from:
        layers.load_state_dict(load_vae(options.start_from, device=device).state_dict())
    if options.decoder_only:
        layers.encoder.requires_grad_(False)
        layers.quant_conv.requires_grad_(False)
    master = MasterWeights(layers)
    layers.to(torch.bfloat16)
    for convolution in (module for module in layers.modules() if isinstance(module, nn.Conv3d)):
        convolution.to(memory_format=torch.channels_last_3d)
    optimizers = _optimizers(master, options.muon_rate, options.learning_rate, fused=device.type == "cuda")
    piece = Piece.of(options)
    if state := load_state(options.work / "vae-state.pt", device):
        master.load_state_dict(state["master"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        piece.resume(state["piece"])
    bank = ClipBank(options.work / "clips", options.families, options.clips, device)
    while bank.poll() < min(64, options.clips):
        time.sleep(0.5)
    generator = np.random.default_rng([piece.step, processes.rank])
    torch.manual_seed(piece.step + processes.rank)
    piece.begin()
    while processes.first_says(piece.goes_on):
        share = processes.first_says(piece.share)
        for optimizer in optimizers:
            set_learning_rate(optimizer, share)
        num_frames = max(frames for since, frames in options.windows if share >= since)
        batch = max(1, options.frames // num_frames)
        loss, error = _step(layers, bank.windows(batch, num_frames, generator))
        norm = master.take_gradients(max_norm=1.0, average=processes.average)
        for optimizer in optimizers:
            optimizer.step()
        master.give_weights()
        piece.step += 1
        if piece.every(20):
            bank.poll()
        if piece.every(100) and processes.is_first:
            psnr = -10 * torch.log10(error / 4)
            print(
                f"vae step {piece.step} {piece.seconds:.0f} s: loss {loss:.4f}, PSNR {psnr:.2f} dB, "
                f"gradient {norm:.3f}, {len(bank)} clips",
                flush=True,
            )
    processes.leave()
    if not processes.is_first:
        return
    state = {
        "master": master.state_dict(),
        "optimizers": [each.state_dict() for each in optimizers],
        "piece": piece.state(),
    }
    save_state(options.work / "vae-state.pt", state)
    path = options.work / "model" / VAE_FILE
    _publish(layers, master, bank, path, fold=not options.decoder_only)
    _save_pictures(path, bank, options.work / "preview-vae.png")


def _optimizers(master: MasterWeights, muon_rate: float, rate: float, *, fused: bool) -> list[Optimizer]:
    """Muon for kernels between features; AdamW for vectors and for what reads or writes pixels and latents."""
    ends = ("conv_in", "conv_out", "quant_conv", "post_quant_conv")
    kernels, others = master.split(
        name
        for name, weight in master.weights.items()
        if weight.ndim == 2 and min(weight.shape) > 1 and name.split(".")[-2] not in ends
    )
    muon = [{"params": list(kernels.values()), "peak_lr": muon_rate}]
    adam = [{"params": list(others.values()), "peak_lr": rate}]
    return [
        BatchedMuon(muon, lr=muon_rate),
        torch.optim.AdamW(adam, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=fused),
    ]


def _publish(layers: AutoencoderKLWan, master: MasterWeights, bank: ClipBank, path: Path, *, fold: bool) -> None:
    """Write the averaged weights; `fold`: with the normalisation of their latents folded in."""
    averaged = master.averaged()
    layers.load_state_dict({**layers.state_dict(), **averaged})
    if fold:
        generator = np.random.default_rng(0)
        videos = (bank.windows(2, bank.num_frames, generator) for _ in range(_STATISTICS_BATCHES))
        mean, std = latent_statistics(layers, videos)
        layers.float()
        layers.load_state_dict({**layers.state_dict(), **averaged})
        fold_normalisation(layers, mean, std)
    save_vae(layers, path)


def _window(text: str) -> tuple[float, int]:
    """`0.5:17` as (0.5, 17)."""
    share, frames = text.split(":")
    return float(share), int(frames)


def _save_pictures(path: Path, bank: ClipBank, picture: Path) -> None:
    """Frames of a few clips above what is left of them after encoding and decoding."""
    vae = VideoVAE.load(path, MODELS["tiny"].vae, device=bank.device, dtype=torch.bfloat16)
    rows = []
    for video in bank.windows(_NUM_PICTURES, bank.num_frames, np.random.default_rng(1)):
        decoded = vae.decode(vae.encode(video[None]))
        for pixels in (video[None], decoded):
            rows.append(np.concatenate(list(to_bytes(pixels)[:: max(1, bank.num_frames // 6)]), axis=1))
    cv2.imwrite(str(picture), np.concatenate(rows, axis=0)[..., ::-1])


def _step(layers: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Backward pass of one batch; returns the loss and the mean squared error."""
    mean, log_variance = encode_sequence(layers, video)
    latents = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    decoded = decode_sequence(layers, latents)
    mean, log_variance = mean.float(), log_variance.float()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
    loss = reconstruction_loss(decoded, video) + _DIVERGENCE * divergence
    loss.backward()
    return loss.detach(), (decoded.detach().float() - video.float()).square().mean()


if __name__ == "__main__":
    main()
