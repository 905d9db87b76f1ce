"""Resizing, padding and range mapping against the bytes that the reference made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cosmos_core.errors import BadInput, BadModel, BadRequest
from cosmos_core.pixels import conditioning_clip, conditioning_frames, normalise, resize_and_crop, to_bytes
from cosmos_core.video_file import read_image

GOLDEN = Path(__file__).parents[1] / "golden/preprocess"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
HEIGHT, WIDTH = MANIFEST["target_H_W"]
NUM_FRAMES = MANIFEST["num_video_frames"]


def as_thwc(clip_BCTHW: torch.Tensor) -> np.ndarray:
    return clip_BCTHW[0].permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("name", MANIFEST["images"])
def test_images_become_the_reference_clip(name: str) -> None:
    golden = load_file(GOLDEN / f"image_{name}.safetensors")
    frames = read_image(GOLDEN / f"image_{name}.png")[None]
    clip = conditioning_clip(frames, source="image", width=WIDTH, height=HEIGHT, num_frames=NUM_FRAMES)
    assert clip.shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(clip[:2], as_thwc(golden["out.video_uint8_first2"]))
    assert not clip[1:].any()


def test_an_image_of_the_right_size_is_untouched() -> None:
    golden = load_file(GOLDEN / "image_exact_noresize.safetensors")
    frame = read_image(GOLDEN / "image_exact.png")
    np.testing.assert_array_equal(frame[None], as_thwc(golden["out.video_uint8"]))
    np.testing.assert_array_equal(resize_and_crop(frame[None], width=WIDTH, height=HEIGHT)[0], frame)


@pytest.mark.parametrize("name", MANIFEST["videos"])
@pytest.mark.parametrize(
    ("num_conditional_frames", "key"),
    [(1, "out.video_uint8_first1plus1_latentcond1"), (5, "out.video_uint8_first5plus1_latentcond2")],
)
def test_videos_become_the_reference_clip(name: str, num_conditional_frames: int, key: str) -> None:
    golden = load_file(GOLDEN / f"video_{name}.safetensors")
    frames = golden["in.frames_THWC_uint8"].numpy()
    clip = conditioning_clip(
        frames,
        source="video",
        width=WIDTH,
        height=HEIGHT,
        num_frames=NUM_FRAMES,
        num_conditional_frames=num_conditional_frames,
    )
    expected = as_thwc(golden[key])
    np.testing.assert_array_equal(clip[: len(expected)], expected)
    assert (clip[num_conditional_frames:] == clip[num_conditional_frames - 1]).all()


@pytest.mark.parametrize("name", MANIFEST["full_size"])
def test_full_resolutions(name: str) -> None:
    about = MANIFEST["full_size"][name]
    golden = load_file(GOLDEN / f"full_{name}.safetensors")
    height, width = about["target_H_W"]
    frame = resize_and_crop(read_image(GOLDEN / about["png"])[None], width=width, height=height)[0]
    chw = np.ascontiguousarray(frame.transpose(2, 0, 1))
    np.testing.assert_array_equal(chw[:, ::16, ::16], golden["out.frame0_every16"].numpy())
    np.testing.assert_array_equal(chw[:, [0, 1, -1]], golden["out.frame0_rows_0_1_last"].numpy())
    assert hashlib.sha256(chw.tobytes()).hexdigest() == about["frame0_sha256"]


def test_normalise_in_both_precisions() -> None:
    golden = load_file(GOLDEN / "image_wider.safetensors")
    clip = golden["out.video_uint8_first2"]
    assert torch.equal(normalise(clip, dtype=torch.float32), golden["out.normalised_fp32_first2"])
    assert torch.equal(normalise(clip, dtype=torch.bfloat16), golden["out.normalised_bf16_first2"])


@pytest.mark.parametrize("name", ["pm1_range", "01_range"])
def test_reference_output_mapping(name: str) -> None:
    golden = load_file(GOLDEN / "postprocess.safetensors")
    frames = to_bytes(golden[f"in.{name}"], guess_range=True)
    np.testing.assert_array_equal(frames, golden[f"out.{name}_THWC"].numpy())


def test_a_bright_scene_keeps_its_range() -> None:
    fog = torch.full((3, 2, 4, 4), 0.5)
    assert (to_bytes(fog) == 191).all()
    assert (to_bytes(fog, guess_range=True) == 128).all()


def test_bytes_survive_the_round_trip() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(3, 1, 16, 16)
    frames = to_bytes(normalise(values.reshape(3, 1, 16, 16), dtype=torch.float32)[None])
    np.testing.assert_array_equal(frames[0, ..., 0].ravel(), np.arange(256))


def test_values_beyond_the_range_are_clamped() -> None:
    video = torch.tensor([-7.0, 9.0]).reshape(1, 1, 1, 2).expand(3, 1, 1, 2)
    np.testing.assert_array_equal(to_bytes(video)[0, 0, :, 0], [0, 255])


def test_a_broken_video_is_no_picture() -> None:
    video = torch.zeros(1, 3, 2, 4, 4)
    video[0, 1, 1, 2, 3] = torch.nan
    with pytest.raises(BadModel, match="not finite"):
        to_bytes(video)


def test_too_few_frames_and_odd_requests_are_refused() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    with pytest.raises(BadInput, match=r"too few frames.*got 4, expected at least 5"):
        conditioning_frames(frames, width=8, height=8, num_conditional_frames=5)
    with pytest.raises(BadRequest, match="1 or 5"):
        conditioning_frames(frames, width=8, height=8, num_conditional_frames=3)
    with pytest.raises(BadRequest, match="uint8"):
        resize_and_crop(frames.astype(np.float32), width=8, height=8)
    with pytest.raises(BadRequest, match="shape of a video"):
        to_bytes(torch.zeros(2, 3, 1, 4, 4))


def test_white_stays_white_in_bfloat16() -> None:
    white = torch.ones(3, 1, 2, 2, dtype=torch.bfloat16)
    assert (to_bytes(white) == 255).all()
    assert (to_bytes(white + 1) == 255).all()
