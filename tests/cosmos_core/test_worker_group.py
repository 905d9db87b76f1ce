"""A worker of several processes: the videos of one process, one answer to every request, and an end for all at once."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cosmos_core import rank_watch, video2world_lora
from cosmos_core.dit import DiT
from cosmos_core.errors import AdapterMismatch, BadConfig, BadRequest, OutOfMemory, WorkerLost
from cosmos_core.protocol import (
    AdapterFile,
    AdapterStrength,
    Alive,
    Done,
    EncodePrompts,
    Failed,
    GenerateVideo,
    Loading,
    LoadModel,
    Progress,
    Ready,
    Stop,
    WorkerSpec,
    decode_event,
    encode,
)
from cosmos_core.rank_agreement import Ranks
from cosmos_core.rank_watch import EXIT_CODE
from cosmos_core.serving import Server
from cosmos_core.video2world import Video2World
from cosmos_core.worker import serve as serve_worker
from tests.process_gang import Gang

PROMPT, NEGATIVE = "A static traffic CCTV camera captures an intersection.", "Blurred."
TEXT = EncodePrompts(request_id="text", prompts=(PROMPT, NEGATIVE))
WORLD_SIZE = 4


@pytest.fixture
def spec(micro_root, tmp_path) -> WorkerSpec:
    micro = micro_root / "crossroads" / "micro"
    adapter = AdapterFile(name="its", path=str(micro / "adapters/collision/iter_000000001.pt"), sha256="test")
    return WorkerSpec(
        model="micro",
        checkpoint=str(micro / "model-112p-10fps.safetensors"),
        vae=str(micro / "tokenizer" / "tokenizer.safetensors"),
        text_encoder=str(micro / "text_encoder"),
        text_encoder_sha256="test",
        adapters=(adapter,),
        embedding_cache=str(tmp_path / "embeddings"),
        socket_path=str(tmp_path / "worker.sock"),
        num_threads=1,
    )


def video(folder: Path, name: str, **changes: Any) -> GenerateVideo:
    picture = folder / "a.png"
    if not picture.exists():
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)).save(picture)
    fields: dict[str, Any] = {
        "request_id": name,
        "input_path": str(picture),
        "prompt": PROMPT,
        "negative_prompt": NEGATIVE,
        "seed": 1,
        "guidance": 7.0,
        "num_steps": 1,
        "num_conditional_frames": 1,
        "resolution": "112",
        "fps": 10,
        "aspect_ratio": "1:1",
        "adapters": (AdapterStrength(name="its"),),
        "frames_path": str(folder / f"{name}.npy"),
    }
    return GenerateVideo(**(fields | changes))


def quick_decode(model: Video2World, latents: torch.Tensor) -> np.ndarray:
    """Takes the place of the VAE's decoder, which runs on rank 0 alone and takes most of a test's time."""
    frames = F.interpolate(latents[:, :3], size=(61, 112, 112))[0].permute(1, 2, 3, 0)
    return (128 + 32 * frames).clamp(0, 255).byte().numpy()


def serve(spec: WorkerSpec, requests: list[GenerateVideo]) -> list[Any]:
    """What a rank answers to these requests: a result, or the error's type and text."""
    with Ranks() as ranks, mock.patch.object(Video2World, "decode_latents", quick_decode):
        server = Server(spec, ranks)
        answers: list[Any] = [server.encode_prompts(TEXT, lambda *_: None)["num_encoded"]]
        server.load_model(lambda part: None)
        for request in requests:
            try:
                answers.append(server.generate(request, lambda *_: None)["layout"])
            except (BadRequest, AdapterMismatch) as error:
                answers.append((type(error).__name__, str(error)))
        return answers


@pytest.mark.slow
def test_processes_give_one_answer_and_the_frames_of_one(spec, tmp_path, monkeypatch):
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()

    def requests(folder: Path) -> list[GenerateVideo]:
        return [
            video(folder, "guided"),
            video(folder, "missing", input_path=str(folder / "none.png")),
            video(folder, "unguided", negative_prompt="", adapters=()),
            video(folder, "unknown", adapters=(AdapterStrength(name="other"),)),
            video(folder, "not_encoded", prompt="Another prompt."),
            video(folder, "no_steps", num_steps=0),
            video(folder, "long", num_chunks=2, negative_prompt=""),
        ]

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    expected = serve(spec.model_copy(update={"embedding_cache": None}), requests(alone))
    with Gang(WORLD_SIZE) as gang:
        answers = gang.run(WORLD_SIZE, serve, spec, requests(together))
    assert answers == [answers[0]] * WORLD_SIZE
    assert answers[0][0] == expected[0] == 2
    assert [answer if isinstance(answer, str) else answer[0] for answer in answers[0][1:]] == [
        "cfg 2 x ulysses 2",
        "BadInput",
        "cfg 1 x ulysses 4",
        "AdapterMismatch",
        "BadRequest",
        "BadRequest",
        "cfg 1 x ulysses 4",
    ]
    written = {"guided.npy", "unguided.npy", "long.npy", "long.npy.chunk00", "long.npy.chunk01"}
    assert {path.name for path in together.iterdir()} == written | {"a.png"}
    clips = {name: np.load(together / name).astype(int) for name in written}
    for name, frames in clips.items():
        assert np.abs(frames - np.load(alone / name)).max() <= 1, name
    assert np.abs(clips["guided.npy"] - clips["unguided.npy"]).mean() > 1
    assert len(clips["long.npy"]) == 121


def is_running(pid: int) -> bool:
    """Whether a process is there and a worker: numbers are given again, and a dead one may not have been collected."""
    try:
        return b"cosmos_core.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


class Client:
    """What a task says to a worker, and hears from it."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(100)
        deadline = time.monotonic() + 100
        while self._socket.connect_ex(spec.socket_path):
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.1)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def next_event(self) -> Any:
        while isinstance(event := decode_event(self._lines.readline()), Alive | Loading | Progress):
            pass
        return event

    def ask(self, request: Any) -> Any:
        self._socket.sendall(encode(request))
        return self.next_event()


def failing_serve(spec: WorkerSpec, behaviour: str) -> None:
    """A worker whose rank 1 does as it is told in the middle of its first video."""
    rank_watch._SILENT_INTERVALS = 6
    rank, forward = os.environ["RANK"], DiT.forward

    def failing(self: DiT, *arguments: Any, **options: Any) -> Any:
        if rank == "1" and options.get("group", self) is not self:
            if behaviour == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            os.kill(os.getpid(), signal.SIGSTOP)
        return forward(self, *arguments, **options)

    DiT.forward = failing  # type: ignore[method-assign]
    serve_worker(spec)


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [("memory", OutOfMemory, "CUDA out of memory"), ("stop", WorkerLost, "nothing from rank 1")],
)
def test_a_failure_inside_a_video_is_one_typed_answer_and_the_end(spec, tmp_path, behaviour, kind, message):
    with Gang(3) as gang:
        gang.start(3, failing_serve, spec, behaviour)
        with Client(spec) as client:
            assert isinstance(client.next_event(), Ready)
            assert isinstance(client.ask(TEXT), Done)
            assert isinstance(client.ask(LoadModel()), Done)
            answer = client.ask(video(tmp_path, "doomed", negative_prompt=""))
            assert isinstance(answer, Failed)
            assert (answer.request_id, answer.worker_ends) == ("doomed", True)
            assert isinstance(answer.to_error(), kind)
            assert message in str(answer.to_error())
            assert [gang.exit_code(rank) for rank in (0, 2)] == [EXIT_CODE, EXIT_CODE]
            assert behaviour == "stop" or gang.exit_code(1) == EXIT_CODE
    assert not (tmp_path / "doomed.npy").exists()


def test_a_group_that_is_too_large_is_refused_before_anything_is_loaded(spec):
    nowhere = spec.model_copy(update={"checkpoint": "nowhere", "vae": "nowhere", "text_encoder": "nowhere"})
    with Gang(5) as gang:
        gang.start(5, serve_worker, nowhere)
        with Client(spec) as client:
            answer = client.next_event()
    assert isinstance(answer, Failed)
    assert isinstance(answer.to_error(), BadConfig)
    assert "got 5, expected 1 | 2 | 3 | 4" in str(answer.to_error())


def too_few_gpus(spec: WorkerSpec) -> str:
    with (
        mock.patch("torch.cuda.device_count", return_value=1),
        mock.patch("torch.cuda.set_device"),
        Ranks() as ranks,
        pytest.raises(BadConfig) as refusal,
    ):
        Server(spec.model_copy(update={"device": "cuda"}), ranks)
    return str(refusal.value)


def test_a_gpu_too_few_is_said_by_all(spec):
    with Gang(2) as gang:
        (message,) = set(gang.run(2, too_few_gpus, spec))
    assert "process 1 on a machine with 1 visible GPUs" in message


def drop_in(folder: Path) -> tuple[int, str]:
    os.chdir(folder)
    with contextlib.redirect_stderr(io.StringIO()) as complaints:
        return video2world_lora.main(["--model_size", "micro", "--prompt", PROMPT]), complaints.getvalue()


def test_the_references_command_refuses_it_too(tmp_path):
    with Gang(5) as gang:
        (code, complaint), *others = gang.run(5, drop_in, tmp_path)
    assert code == video2world_lora.EXIT_FAILED
    assert "got 5, expected 1 | 2 | 3 | 4" in complaint
    assert complaint.count("\n") == 1
    assert others == [(0, "")] * 4


def test_a_worker_is_told_to_stop(spec):
    with Gang(3) as gang:
        gang.start(3, serve_worker, spec)
        with Client(spec) as client:
            assert len(set(client.next_event().pids)) == 3
            assert isinstance(client.ask(Stop()), Done)
        assert gang.results(3) == [None] * 3


@pytest.mark.e2e
@pytest.mark.slow
def test_a_worker_under_torchrun_serves_and_ends_with_it(spec, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(spec.model_dump_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*launcher, "-m", "cosmos_core.worker", str(path)], env=environment) as process:
        try:
            with Client(spec) as client:
                ready = client.next_event()
                assert len(set(ready.pids)) == 2
                assert client.ask(video(tmp_path, "early")).to_error().what == "no model is loaded"
                client.ask(TEXT)
                client.ask(LoadModel())
                assert client.ask(video(tmp_path, "guided")).result["layout"] == "cfg 2 x ulysses 1"
                assert all(is_running(pid) for pid in ready.pids)
                process.kill()
                assert client.next_event().to_error().what == "the processes of the group lost their store"
        finally:
            process.kill()
    assert np.load(tmp_path / "guided.npy").shape == (61, 112, 112, 3)
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in ready.pids):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.1)
