"""The micro model: complete, loadable by the same code as the real ones, and the same on every run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_core import micro
from cosmos_core.architecture import MODELS
from cosmos_core.checkpoint import load_dit, read_state_dict
from cosmos_core.checkpoint_kind import CheckpointKind, checkpoint_facts
from cosmos_core.errors import BadRequest
from cosmos_core.geometry import VideoGeometry
from cosmos_core.lora import LoraSpec, activate, differing_base_weights, effective_norms, load_adapter
from cosmos_core.micro import ADAPTERS, make_micro
from cosmos_core.pixels import normalise, to_bytes
from cosmos_core.text_encoder import TextEncoder
from cosmos_core.vae import VideoVAE
from cosmos_core.video2world import Video2World

MODEL = MODELS["micro"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def folder(micro_root: Path) -> Path:
    return micro_root / "crossroads/micro"


def picture(width: int = 192, height: int = 112) -> np.ndarray:
    """A scene of flat areas: sky, road, a vehicle."""
    frame = np.full((1, height, width, 3), (150, 190, 230), np.uint8)
    frame[:, height // 2 :] = (70, 70, 75)
    frame[:, height // 2 : height // 2 + 24, width // 4 : width // 4 + 48] = (200, 30, 30)
    return frame


def test_equal_seeds_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    assert content(make_micro(tmp_path / "same")) == content(folder)
    other = content(make_micro(tmp_path / "other", seed=1))
    name = "model-112p-10fps.safetensors"
    assert other.keys() == content(folder).keys()
    assert other[name] != content(folder)[name]


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = make_micro(tmp_path)
    readme = folder / "README.md"
    assert "Not a trained model" in readme.read_text()
    readme.write_text("mine")
    assert make_micro(tmp_path) == folder
    assert readme.read_text() == "mine"
    make_micro(tmp_path, overwrite=True)
    assert "Not a trained model" in readme.read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["micro"]
    (folder / "text_encoder/config.json").unlink()
    with pytest.raises(BadRequest, match=r"no text_encoder/config\.json"):
        make_micro(tmp_path)


def test_the_command_lists_files_with_their_hashes(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert micro.main([str(folder.parents[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(content(folder))
    assert all(re.fullmatch(r"[0-9a-f]{64}  .+", line) for line in lines)
    (tmp_path / "crossroads/micro").mkdir(parents=True)
    assert micro.main([str(tmp_path)]) == 1
    assert "not the whole micro model" in capsys.readouterr().err


def test_files_are_of_the_published_kinds(folder: Path) -> None:
    base = read_state_dict(folder / "model-112p-10fps.safetensors")
    assert all(name.startswith("net.") for name in base)
    facts = checkpoint_facts(base)
    assert (facts.kind, facts.size) == (CheckpointKind.BASE, "micro")
    for name in ADAPTERS:
        facts = checkpoint_facts(read_state_dict(folder / f"adapters/{name}/iter_000000001.pt"))
        assert (facts.kind, facts.size, facts.lora_ranks) == (CheckpointKind.LORA_TRAINING, "micro", (16,))
    vae = read_state_dict(folder / "tokenizer/tokenizer.safetensors")
    assert checkpoint_facts(vae).kind is CheckpointKind.VAE


def test_the_vae_shows_the_picture(folder: Path) -> None:
    vae = VideoVAE.load(folder / "tokenizer/tokenizer.safetensors", MODEL.vae, dtype=torch.float32)
    frames = picture()
    video = normalise(torch.from_numpy(frames).permute(3, 0, 1, 2)[None], dtype=torch.float32)
    latents = vae.encode(video)
    assert latents.shape == (1, 16, 1, 14, 24)
    back = to_bytes(vae.decode(latents)).astype(int)
    assert np.abs(back - frames)[:, 8:-8, 8:-8].mean() < 8
    # five equal frames are a still: the second latent frame says the same as the first
    still = vae.encode(video.repeat(1, 1, 5, 1, 1))
    torch.testing.assert_close(still[:, :, 1], still[:, :, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_conditional_frames", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_transformer_repeats_the_first_frame(folder: Path, num_conditional_frames: int, dtype: torch.dtype) -> None:
    geometry = VideoGeometry(width=96, height=64, num_latent_frames=4, fps=10)
    dit = load_dit(folder / "model-112p-10fps.safetensors", MODEL.dit, dtype=dtype)
    vae = VideoVAE.load(folder / "tokenizer/tokenizer.safetensors", MODEL.vae, dtype=dtype)
    frames = np.repeat(picture(96, 64), num_conditional_frames, axis=0)
    text = torch.zeros(1, MODEL.text_length, MODEL.dit.crossattn_emb_channels)
    clip = Video2World(dit, vae).generate(
        frames, text, geometry=geometry, num_conditional_frames=num_conditional_frames, num_steps=8
    )
    for frame in clip.frames[num_conditional_frames:]:
        assert np.corrcoef(frame.ravel(), frames[0].ravel())[0, 1] > 0.9


def test_a_clip_depends_on_prompt_adapter_and_seed(folder: Path) -> None:
    geometry = VideoGeometry(width=96, height=64, num_latent_frames=3, fps=10)
    dit = load_dit(folder / "model-112p-10fps.safetensors", MODEL.dit, dtype=torch.float32)
    for name in ADAPTERS:
        state_dict = read_state_dict(folder / f"adapters/{name}/iter_000000001.pt")
        load_adapter(dit, state_dict, LoraSpec(rank=16, alpha=16), name=name)
        assert not differing_base_weights(dit, state_dict)
        assert min(effective_norms(dit, name).values()) > 0
    vae = VideoVAE.load(folder / "tokenizer/tokenizer.safetensors", MODEL.vae, dtype=torch.float32)
    encoder = TextEncoder.load(folder / "text_encoder", max_length=MODEL.text_length)
    prompts = encoder.encode(["a red car turns left", "a truck stops in the rain", "blurry"]).embeddings
    model = Video2World(dit, vae)
    frames = picture(96, 64)

    def clip(adapters: dict[str, float], *, prompt: int = 0, seed: int = 0) -> np.ndarray:
        activate(dit, adapters)
        return model.generate(
            frames,
            prompts[prompt : prompt + 1],
            geometry=geometry,
            negative_embedding_1ND=prompts[2:],
            num_steps=6,
            seed=seed,
        ).frames

    base = clip({})
    assert np.abs(base[:1].astype(int) - frames)[:, 8:-8, 8:-8].mean() < 8
    assert (base == clip({})).all()
    others = [clip({"collision": 1.0}), clip({"rear_end": 1.0}), clip({}, prompt=1), clip({}, seed=1)]
    for other in others:
        assert (other[:1] == base[:1]).all()
        assert np.abs(other[1:].astype(int) - base[1:]).mean() > 1
    for later in base[1:]:
        assert np.corrcoef(later.ravel(), frames.ravel())[0, 1] > 0.8
