"""Whole runs against the reference, and what a batch relies on: same seed same frames, lossless chunks, resumption."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.golden_set import build_dit, relative_l2
from cosmos_core.architecture import VAEArchitecture, architecture_from_reference
from cosmos_core.errors import BadRequest, OutOfMemory
from cosmos_core.geometry import VideoGeometry
from cosmos_core.vae import VideoVAE
from cosmos_core.video2world import Video2World, long_video_frames

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFEST = json.loads((GOLDEN / "pipeline/manifest.json").read_text())
INPUTS = load_file(GOLDEN / "pipeline/e2e_inputs.safetensors")
GEOMETRY = VideoGeometry(width=64, height=48, num_latent_frames=3, fps=16)
PROMPT, NEGATIVE = INPUTS["in.prompt_embedding"], INPUTS["in.negative_embedding"]


def reference_model(dtype: torch.dtype) -> Video2World:
    architecture = architecture_from_reference(MANIFEST["dit_constructor_kwargs"])
    dit = build_dit(architecture, load_file(GOLDEN / "pipeline/dit_state_dict.safetensors"), dtype)
    path = GOLDEN / "tokenizer/state_dict.safetensors"
    vae = VideoVAE.load(path, VAEArchitecture(dim=MANIFEST["vae_dim"]), device=torch.device("cpu"), dtype=dtype)
    return Video2World(dit, vae)


@pytest.fixture(scope="module")
def model() -> Video2World:
    return reference_model(torch.float32)


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("num_frames", [1, 5])
def test_conditioning_latents_are_those_of_the_whole_clip(model, frames, num_frames):
    clip = torch.from_numpy(frames)
    whole = model.encode_frames(clip)
    start = model.encode_frames(clip[:num_frames])
    assert start.dtype == torch.float32
    torch.testing.assert_close(start, whole[:, :, : start.shape[2]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_seed_same_frames(frames, dtype):
    model = reference_model(dtype)
    first, again, other = (
        model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=2, seed=seed) for seed in (1, 1, 2)
    )
    assert (first.frames.dtype, first.frames.shape) == (np.uint8, (9, 48, 64, 3))
    assert (first.latents.dtype, first.latents.shape) == (torch.float32, (1, 16, 3, 6, 8))
    np.testing.assert_array_equal(first.frames, again.frames)
    assert torch.equal(first.latents, again.latents)
    assert not np.array_equal(first.frames, other.frames)


def test_numpy_and_torch_frames_give_the_same(model, frames):
    options = {"geometry": GEOMETRY, "num_steps": 1, "num_conditional_frames": 5}
    from_numpy = model.generate(frames, PROMPT, **options)
    from_torch = model.generate(torch.from_numpy(frames)[:5], PROMPT, **options)
    assert torch.equal(from_numpy.latents, from_torch.latents)


def test_conditioning_latents_come_through_unchanged(model, frames):
    generation = model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=2, num_conditional_frames=5)
    clean = model.encode_frames(torch.from_numpy(frames[:5]))
    assert torch.equal(generation.latents[:, :, :2], clean)


def test_without_a_negative_embedding_the_network_runs_once_a_step(model, frames):
    calls = []
    handle = model.dit.register_forward_pre_hook(lambda module, args: calls.append(1))
    try:
        model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=3)
        assert len(calls) == 4
        model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=3, negative_embedding_1ND=NEGATIVE)
        assert len(calls) == 4 + 8
    finally:
        handle.remove()


def test_same_negative_cancels_guidance(model, frames):
    off = model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=2)
    same = model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=2, negative_embedding_1ND=PROMPT)
    assert torch.equal(off.latents, same.latents)


def test_on_step_reports_and_cancels(model, frames):
    class Cancelled(Exception):
        pass

    seen = []

    def on_step(step, num_steps):
        seen.append((step, num_steps))
        if step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=5, on_step=on_step)
    assert seen == [(1, 5), (2, 5)]


@pytest.mark.parametrize(
    ("shape", "num_conditional_frames", "message"),
    [((9, 48, 64, 3), 2, "1 or 5"), ((4, 48, 64, 3), 5, "at least"), ((1, 64, 48, 3), 1, "Resize")],
)
def test_wrong_conditioning_frames_are_refused(model, shape, num_conditional_frames, message):
    with pytest.raises(BadRequest, match=message):
        model.generate(
            np.zeros(shape, np.uint8), PROMPT, geometry=GEOMETRY, num_conditional_frames=num_conditional_frames
        )


def test_frames_that_are_not_bytes_are_refused(model, frames):
    with pytest.raises(BadRequest, match="uint8"):
        model.generate(frames.astype(np.float32), PROMPT, geometry=GEOMETRY)


def test_out_of_memory_becomes_an_error_of_ours(model, frames):
    def full(module, args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    handle = model.dit.register_forward_pre_hook(full)
    try:
        with pytest.raises(OutOfMemory, match=r"9 frames of 64 x 48.*2\.00 GiB"):
            model.generate(frames, PROMPT, geometry=GEOMETRY, num_steps=1)
    finally:
        handle.remove()


class TestLongVideos:
    OPTIONS = {"geometry": GEOMETRY, "num_steps": 1, "seed": 5}

    @pytest.mark.parametrize("overlap", [1, 5])
    @pytest.mark.parametrize("num_chunks", [1, 3])
    def test_number_of_frames(self, model, frames, num_chunks, overlap):
        chunks = list(model.generate_long(frames, [PROMPT] * num_chunks, num_overlap_frames=overlap, **self.OPTIONS))
        video = np.concatenate([chunk.new_frames for chunk in chunks])
        expected = long_video_frames(GEOMETRY, num_chunks=num_chunks, num_overlap_frames=overlap)
        assert len(video) == expected == 9 + (num_chunks - 1) * (9 - overlap)
        assert [(chunk.index, chunk.seed) for chunk in chunks] == [(k, 5 + k) for k in range(num_chunks)]

    def test_real_sizes(self):
        geometry = VideoGeometry(width=1280, height=704, num_latent_frames=24, fps=16)
        assert long_video_frames(geometry, num_chunks=6, num_overlap_frames=1) == 553
        assert long_video_frames(geometry, num_chunks=6, num_overlap_frames=5) == 533

    @pytest.mark.parametrize("overlap", [1, 5])
    def test_a_chunk_is_a_clip_from_the_last_bytes_before(self, model, frames, overlap):
        prompts = [PROMPT, NEGATIVE]
        chunks = list(model.generate_long(frames, prompts, num_overlap_frames=overlap, **self.OPTIONS))
        first = model.generate(frames, PROMPT, **self.OPTIONS)
        second = model.generate(
            first.frames[-overlap:],
            NEGATIVE,
            geometry=GEOMETRY,
            num_steps=1,
            seed=6,
            num_conditional_frames=overlap,
        )
        np.testing.assert_array_equal(chunks[0].frames, first.frames)
        np.testing.assert_array_equal(chunks[1].frames, second.frames)

    def test_an_interrupted_run_goes_on_with_the_same_frames(self, model, frames):
        options = {**self.OPTIONS, "num_overlap_frames": 5}
        whole = [chunk.frames for chunk in model.generate_long(frames, [PROMPT] * 3, **options)]
        rest = list(model.generate_long(frames, [PROMPT] * 3, finished=whole[:2], **options))
        assert [chunk.index for chunk in rest] == [2]
        np.testing.assert_array_equal(rest[0].frames, whole[2])
        assert list(model.generate_long(frames, [PROMPT] * 3, finished=whole, **options)) == []
        with pytest.raises(BadRequest, match="too many finished"):
            list(model.generate_long(frames, [PROMPT], finished=whole, **options))

    def test_progress_names_the_chunk(self, model, frames):
        seen = []
        list(model.generate_long(frames, [PROMPT] * 2, on_step=lambda *args: seen.append(args), **self.OPTIONS))
        assert seen == [(0, 1, 1), (1, 1, 1)]


def test_reference_run_from_prepared_frames(model):
    """The run with the fewest assumptions on how files are read: its conditioning latents are recorded."""
    tensors = load_file(GOLDEN / "pipeline/e2e_video_cond5_10steps.safetensors")
    args = MANIFEST["e2e_runs"]["video_cond5_10steps"]["args"]
    latents = model.sample_latents(
        tensors["mid.encoded_video_latent"][:, :, :2],
        PROMPT,
        geometry=GEOMETRY,
        negative_embedding_1ND=NEGATIVE,
        guidance=args["guidance"],
        num_steps=args["steps"],
        seed=args["seed"],
    )
    assert relative_l2(latents, tensors["out.final_latent"]) < 5e-5
