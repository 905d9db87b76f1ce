"""What a worker does with its requests, without the processes around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from cosmos_core import serving
from cosmos_core.errors import AdapterMismatch, BadConfig, CheckpointMismatch, CheckpointMissing
from cosmos_core.memory_mode import WORKER_SAVINGS
from cosmos_core.protocol import AdapterFile, AdapterStrength, EncodePrompts, GenerateVideo, WorkerSpec
from cosmos_core.serving import Server

PROMPT = "A static traffic CCTV camera captures an intersection."


@pytest.fixture
def spec(micro_root, tmp_path) -> WorkerSpec:
    micro = micro_root / "crossroads" / "micro"
    return WorkerSpec(
        model="micro",
        checkpoint=str(micro / "model-112p-10fps.safetensors"),
        vae=str(micro / "tokenizer" / "tokenizer.safetensors"),
        text_encoder=str(micro / "text_encoder"),
        text_encoder_sha256="test",
        adapters=(
            AdapterFile(
                name="its-collision@production",
                path=str(micro / "adapters" / "collision" / "iter_000000001.pt"),
                sha256="test",
            ),
        ),
        embedding_cache=str(tmp_path / "embeddings"),
        socket_path="unused",
    )


def test_a_process_without_a_gpu_of_its_own_is_refused(spec, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BadConfig, match="process 2 on a machine with 2 visible GPUs"):
        Server(spec.model_copy(update={"device": "cuda"}))


def load(spec: WorkerSpec) -> tuple[Server, dict]:
    server = Server(spec)
    server.encode_prompts(EncodePrompts(request_id="p", prompts=(PROMPT,)), lambda *_: None)
    return server, server.load_model(lambda part: None)


def generate(server: Server, tmp_path, **changes) -> np.ndarray:
    picture = tmp_path / "a.png"
    Image.fromarray(np.full((112, 192, 3), 120, dtype=np.uint8)).save(picture)
    fields = {
        "request_id": "job",
        "input_path": str(picture),
        "prompt": PROMPT,
        "negative_prompt": "",
        "seed": 1,
        "guidance": 7.0,
        "num_steps": 1,
        "num_conditional_frames": 1,
        "resolution": "112",
        "fps": 10,
        "aspect_ratio": "16:9",
        "frames_path": str(tmp_path / "frames.npy"),
    }
    server.generate(GenerateVideo(**(fields | changes)), lambda *_: None)
    return np.load(tmp_path / "frames.npy").astype(np.float32)


USE = (AdapterStrength(name="its-collision@production"),)


@pytest.mark.slow
def test_an_adapter_acts_only_where_it_is_asked_for(spec, tmp_path):
    server, proof = load(spec)
    assert proof["merged"] is True
    assert proof["adapter_norms"]["its-collision@production"]["probe_difference"] > 0
    base = generate(server, tmp_path)
    adapted = generate(server, tmp_path, adapters=USE)
    assert (adapted != base).any()
    assert (generate(server, tmp_path) == base).all()
    off = (AdapterStrength(name="its-collision@production", strength=0.0),)
    assert (generate(server, tmp_path, adapters=off) == base).all()
    with pytest.raises(AdapterMismatch, match="none-such"):
        generate(server, tmp_path, adapters=(AdapterStrength(name="none-such"),))


@pytest.mark.slow
def test_a_refused_adapter_costs_only_those_who_ask_for_it(spec, tmp_path):
    wrong = spec.adapters[0].model_copy(update={"name": "wrong-rank", "rank": 8})
    server, proof = load(spec.model_copy(update={"adapters": (wrong, *spec.adapters)}))
    assert list(proof["refused_adapters"]) == ["wrong-rank"]
    assert list(proof["adapter_norms"]) == ["its-collision@production"]
    with pytest.raises(AdapterMismatch, match="size mismatch for blocks"):
        generate(server, tmp_path, adapters=(AdapterStrength(name="wrong-rank"),))
    assert (generate(server, tmp_path, adapters=USE) != generate(server, tmp_path)).any()


@pytest.mark.slow
def test_merged_unmerged_and_quantized_agree_within_their_rounding(spec, tmp_path):
    frames = {}
    for name, changes in {
        "merged": {},
        "unmerged": {"merge_adapters": False},
        "int8": {"quantize": "int8"},
    }.items():
        server, proof = load(spec.model_copy(update=changes))
        assert proof["merged"] is (name == "merged")
        frames[name] = generate(server, tmp_path, adapters=USE)
    assert np.abs(frames["merged"] - frames["unmerged"]).max() <= 1
    assert 0 < np.abs(frames["merged"] - frames["int8"]).mean() < 4


def test_embeddings_are_made_once_and_kept(spec):
    request = EncodePrompts(request_id="p", prompts=(PROMPT, PROMPT, "Another prompt."))
    assert Server(spec).encode_prompts(request, lambda *_: None)["num_encoded"] == 2
    assert Server(spec).encode_prompts(request, lambda *_: None)["num_encoded"] == 0
    other = spec.model_copy(update={"text_encoder_sha256": "another revision"})
    assert Server(other).encode_prompts(request, lambda *_: None)["num_encoded"] == 2


def test_a_prompt_that_is_cut_is_reported(spec):
    long = "car " * 400
    report = Server(spec).encode_prompts(EncodePrompts(request_id="p", prompts=(PROMPT, long)), lambda *_: None)
    assert list(report["truncated"]) == [long]
    assert report["truncated"][long] > 128


def test_a_training_checkpoint_can_be_base_and_adapter_at_once(spec):
    adapter = spec.adapters[0]
    with pytest.raises(CheckpointMismatch, match="Unexpected keys in regular model"):
        load(spec.model_copy(update={"checkpoint": adapter.path, "adapters": ()}))
    _, proof = load(spec.model_copy(update={"checkpoint": adapter.path}))
    assert proof["parameters"]["lora"]["its-collision@production"] > 0


def test_frames_that_the_client_decoded_are_generated_from_like_their_picture(spec, tmp_path):
    server, _ = load(spec)
    picture = generate(server, tmp_path)
    np.save(tmp_path / "input.npy", np.full((1, 112, 192, 3), 120, dtype=np.uint8))
    assert np.array_equal(generate(server, tmp_path, input_path=str(tmp_path / "input.npy")), picture)


@pytest.mark.slow
def test_savings_of_memory_change_no_pixel_beyond_rounding(spec, tmp_path, monkeypatch):
    """With 8-bit weights for the savings that concern them; strips are made low enough to divide the micro video."""
    monkeypatch.setattr("cosmos_core.serving.STRIP_ROWS", 10)
    for quantize in ("none", "int8"):
        plain, _ = load(spec.model_copy(update={"quantize": quantize}))
        saving, _ = load(spec.model_copy(update={"quantize": quantize, "savings": WORKER_SAVINGS}))
        assert (plain._model.vae.strip_rows, saving._model.vae.strip_rows) == (None, 10)
        difference = np.abs(generate(plain, tmp_path, adapters=USE) - generate(saving, tmp_path, adapters=USE))
        assert difference.max() <= 1


@pytest.mark.parametrize(
    ("quantize", "savings", "expected"),
    [
        ("none", (), ["meta", "meta"]),
        ("int8", ("text", "loading"), ["cpu", "cpu"]),
        ("none", ("loading", "base", "strips"), ["meta", "meta"]),
    ],
)
def test_savings_decide_where_things_are_loaded(spec, monkeypatch, quantize, savings, expected):
    """On the meta device in place of a GPU."""
    devices: list[str] = []

    def stop(*_, device, **__):
        devices.append(str(device))
        raise CheckpointMissing("stop here")

    monkeypatch.setattr(serving.TextEncoder, "load", stop)
    monkeypatch.setattr(serving, "load_dit", stop)
    server = Server(spec.model_copy(update={"quantize": quantize, "savings": savings}))
    server.device = torch.device("meta")
    with pytest.raises(CheckpointMissing, match="stop here"):
        server.encode_prompts(EncodePrompts(request_id="p", prompts=(PROMPT,)), lambda *_: None)
    with pytest.raises(CheckpointMissing, match="stop here"):
        server.load_model(lambda part: None)
    assert devices == expected


@pytest.mark.gpu
def test_savings_leave_on_the_host_what_they_say(spec, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = spec.model_copy(update={"device": "cuda", "dtype": "bfloat16", "quantize": "int8"})
    peaks = []
    for savings in ((), WORKER_SAVINGS):
        torch.cuda.reset_peak_memory_stats()
        load(on_gpu.model_copy(update={"savings": savings, "embedding_cache": None}))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]
