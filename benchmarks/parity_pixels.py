"""Parity of the video VAE, of reading and resizing inputs, and of the bytes that go to the video writer."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.golden_set import Case, load_json, load_tensors, relative_l2
from cosmos_core.architecture import VAEArchitecture
from cosmos_core.geometry import VideoGeometry
from cosmos_core.image_file import read_image
from cosmos_core.pixels import conditioning_clip, conditioning_frames, normalise, resize_and_crop, to_bytes
from cosmos_core.vae import LATENT_MEAN, LATENT_STD, VideoVAE, build_layers, native_key_map

__all__ = ["build_vae", "postprocess_cases", "preprocess_cases", "run_input", "vae_cases"]

_ENCODE_LIMIT = 5e-6
_DECODE_LIMIT = 1e-5
_BF16_LIMIT = 3e-2


def build_vae(folder: Path, dtype: torch.dtype) -> VideoVAE:
    """The VAE of `tokenizer/`."""
    kwargs = load_json(folder / "tokenizer/config.json")["vae_kwargs"]
    known = {field.name for field in fields(VAEArchitecture)}
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in kwargs.items() if n in known}
    path = folder / "tokenizer/state_dict.safetensors"
    return VideoVAE.load(path, VAEArchitecture(**values), device="cpu", dtype=dtype)


def run_input(
    image: Path | None, video_THWC: Tensor, geometry: VideoGeometry, num_conditional_frames: int
) -> np.ndarray:
    """Frames that a run starts from: an image on disk, or the last frames of a decoded video."""
    frames = video_THWC.numpy() if image is None else read_image(image)[None]
    return conditioning_frames(
        frames, width=geometry.width, height=geometry.height, num_conditional_frames=num_conditional_frames
    )


def vae_cases(folder: Path) -> Iterator[Case]:
    """Encodings and decodings of `tokenizer/`, and names and shapes of the full-size VAE."""
    for path in sorted(folder.glob("tokenizer/*.safetensors")):
        for name in sorted(load_tensors(path)):
            yield from _vae_tensor_cases(folder, path, name)
    for path in sorted(folder.glob("layout/*.json")):
        layout = load_json(path)
        if "state_dict" in layout and "constructor_kwargs" not in layout:
            yield Case("layout", path.stem, 0, partial(_vae_differences, layout))


def _vae_tensor_cases(folder: Path, path: Path, name: str) -> Iterator[Case]:
    bf16 = name.startswith("bf16.")
    output = name.removeprefix("bf16.").removeprefix("out.")
    dtype = torch.bfloat16 if bf16 else torch.float32
    suffix = " bf16" if bf16 else ""
    if output == "latent":
        source = "bf16.in_video" if bf16 else "in.video"
        measure = partial(_encode, folder, path, source, name, dtype)
        yield Case(f"tokenizer encode{suffix}", f"{path.stem} {name}", _BF16_LIMIT if bf16 else _ENCODE_LIMIT, measure)
    elif output == "latent_unnormalised_mu":
        yield Case("tokenizer encode", f"{path.stem} {name}", _ENCODE_LIMIT, partial(_encode_mean, folder, path, name))
    elif output in ("decode_of_latent", "decode_of_random_latent"):
        source = "out.latent" if output == "decode_of_latent" else "in.random_latent"
        measure = partial(_decode, folder, path, source, name, dtype)
        yield Case(f"tokenizer decode{suffix}", f"{path.stem} {name}", _BF16_LIMIT if bf16 else _DECODE_LIMIT, measure)


def _encode(folder: Path, path: Path, source: str, output: str, dtype: torch.dtype) -> float:
    tensors = load_tensors(path)
    return relative_l2(build_vae(folder, dtype).encode(tensors[source]), tensors[output])


def _encode_mean(folder: Path, path: Path, output: str) -> float:
    """The encoder's mean before its channels are normalised."""
    tensors = load_tensors(path)
    latents = build_vae(folder, torch.float32).encode(tensors["in.video"])
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    return relative_l2(latents * std + mean, tensors[output])


def _decode(folder: Path, path: Path, source: str, output: str, dtype: torch.dtype) -> float:
    tensors = load_tensors(path)
    return relative_l2(build_vae(folder, dtype).decode(tensors[source]), tensors[output])


def _vae_differences(layout: Mapping[str, Any]) -> float:
    layers = build_layers(VAEArchitecture())
    tensors = layers.state_dict()
    shapes = {native: tuple(tensors[name].shape) for native, name in native_key_map(layers).items()}
    golden = {name: tuple(shape) for name, shape in layout["state_dict"].items()}
    num_parameters = sum(parameter.numel() for parameter in layers.parameters())
    return len(shapes.items() ^ golden.items()) + abs(num_parameters - layout["num_parameters"])


def preprocess_cases(folder: Path) -> Iterator[Case]:
    """Clips and normalised values of `preprocess/`; a deviation is a number of bytes or values that differ."""
    if not (folder / "preprocess").is_dir():
        return
    manifest = load_json(folder / "preprocess/manifest.json")
    for name, about in manifest["images"].items():
        for output in about["tensors"]:
            measure = partial(_image, folder, manifest, about["png"], f"image_{name}", output)
            yield Case("preprocess", f"image {name} {output}", 0, measure)
    for name, about in manifest["videos"].items():
        for output in (tensor for tensor in about["tensors"] if tensor.startswith("out.")):
            yield Case("preprocess", f"video {name} {output}", 0, partial(_video, folder, manifest, name, output))
    for path in sorted(folder.glob("preprocess/*.safetensors")):
        if "out.video_uint8" in load_tensors(path):
            yield Case("preprocess", path.stem, 0, partial(_as_read, path))
    for name, about in manifest["full_size"].items():
        yield Case("preprocess", f"full size {name}", 0, partial(_full_size, folder, name, about))


def _image(folder: Path, manifest: Mapping[str, Any], png: str, file: str, output: str) -> float:
    golden = load_tensors(folder / f"preprocess/{file}.safetensors")[output]
    frames = read_image(folder / "preprocess" / png)[None]
    return _clip_differences(manifest, frames, "image", 1, golden, output)


def _as_read(path: Path) -> float:
    """A picture as it is read, without resizing; the file is named after the picture."""
    (picture,) = (p for p in path.parent.glob("*.png") if path.stem == p.stem or path.stem.startswith(f"{p.stem}_"))
    frame = torch.from_numpy(read_image(picture)).permute(2, 0, 1)[None, :, None]
    return _num_different(frame, load_tensors(path)["out.video_uint8"])


def _video(folder: Path, manifest: Mapping[str, Any], name: str, output: str) -> float:
    tensors = load_tensors(folder / f"preprocess/video_{name}.safetensors")
    match = re.search(r"_first(\d+)plus1_", output)
    if match is None:
        raise ValueError(f"{output} does not say its number of conditioning frames")
    frames = tensors["in.frames_THWC_uint8"].numpy()
    return _clip_differences(manifest, frames, "video", int(match[1]), tensors[output], output)


def _clip_differences(
    manifest: Mapping[str, Any], frames: np.ndarray, source: Any, num_conditional_frames: int, golden: Tensor, name: str
) -> float:
    """Compare the first frames of the clip, as bytes or normalised."""
    height, width = manifest["target_H_W"]
    clip_THWC = conditioning_clip(
        frames,
        source=source,
        width=width,
        height=height,
        num_frames=manifest["num_video_frames"],
        num_conditional_frames=num_conditional_frames,
    )
    clip = torch.from_numpy(clip_THWC).permute(3, 0, 1, 2)[None, :, : golden.shape[2]]
    if "normalised" in name:
        clip = normalise(clip, dtype=golden.dtype)
    return _num_different(clip, golden)


def _full_size(folder: Path, name: str, about: Mapping[str, Any]) -> float:
    height, width = about["target_H_W"]
    frames = read_image(folder / "preprocess" / about["png"])[None]
    frame = torch.from_numpy(resize_and_crop(frames, width=width, height=height)[0]).permute(2, 0, 1).contiguous()
    golden = load_tensors(folder / f"preprocess/full_{name}.safetensors")
    differences = _num_different(frame[:, ::16, ::16], golden["out.frame0_every16"])
    differences += _num_different(frame[:, [0, 1, -1]], golden["out.frame0_rows_0_1_last"])
    return differences + (hashlib.sha256(frame.numpy().tobytes()).hexdigest() != about["frame0_sha256"])


def postprocess_cases(folder: Path) -> Iterator[Case]:
    """Videos to bytes, with the reference's guess of the range."""
    for path in sorted(folder.glob("preprocess/*.safetensors")):
        for name in sorted(load_tensors(path)):
            match = re.fullmatch(r"in\.(.+_range)", name)
            if match:
                yield Case("postprocess", name, 0, partial(_postprocess, path, name, f"out.{match[1]}_THWC"))


def _postprocess(path: Path, name: str, output: str) -> float:
    tensors = load_tensors(path)
    return _num_different(torch.from_numpy(to_bytes(tensors[name], guess_range=True)), tensors[output])


def _num_different(got: Tensor, golden: Tensor) -> float:
    if got.shape != golden.shape or got.dtype != golden.dtype:
        raise ValueError(
            f"{got.dtype} {tuple(got.shape)} where the golden tensor is {golden.dtype} {tuple(golden.shape)}"
        )
    return float((got != golden).sum())
