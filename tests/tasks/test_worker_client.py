"""Real workers: what they answer, and that nothing is left of them when they are stopped, killed or abandoned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_core.errors import BadInput, BadRequest, CheckpointMismatch, WorkerLost
from cosmos_core.protocol import EncodePrompts, GenerateVideo, LoadModel, Progress
from tasks.worker_client import WorkerClient

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def client(micro_root: Path, tmp_path: Path, **changes) -> WorkerClient:
    micro = micro_root / "crossroads" / "micro"
    spec = {
        "model": "micro",
        "checkpoint": str(micro / "model-112p-10fps.safetensors"),
        "vae": str(micro / "tokenizer" / "tokenizer.safetensors"),
        "text_encoder": str(micro / "text_encoder"),
        "text_encoder_sha256": "test",
        "embedding_cache": str(tmp_path / "embeddings"),
        "num_threads": 1,
    }
    return WorkerClient(
        spec | changes, log_folder=tmp_path / "logs", gpu=None, startup_timeout_s=120, silence_timeout_s=30
    )


def message(tmp_path: Path, **changes) -> GenerateVideo:
    picture = tmp_path / "a.png"
    Image.fromarray(np.full((112, 192, 3), 90, dtype=np.uint8)).save(picture)
    fields = {
        "request_id": "job",
        "input_path": str(picture),
        "prompt": "A camera.",
        "negative_prompt": "",
        "seed": 0,
        "guidance": 7.0,
        "num_steps": 1,
        "num_conditional_frames": 1,
        "resolution": "112",
        "fps": 10,
        "aspect_ratio": "16:9",
        "frames_path": str(tmp_path / "frames.npy"),
    }
    return GenerateVideo(**(fields | changes))


def is_running(pid: int) -> bool:
    try:
        return b"cosmos_core.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_gone(pids, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "worker processes are left"
        time.sleep(0.1)


def test_a_worker_serves_answers_errors_and_goes_on(micro_root, tmp_path):
    worker = client(micro_root, tmp_path)
    ready = worker.start()
    try:
        with pytest.raises(BadRequest, match="no model is loaded"):
            worker.request(message(tmp_path), timeout_s=60)
        encoded = worker.request(EncodePrompts(request_id="p", prompts=("A camera.",)), timeout_s=60)
        assert encoded["num_encoded"] == 1
        assert worker.request(LoadModel(), timeout_s=60)["parameters"]["dit"] > 0
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with pytest.raises(BadInput):
            worker.request(message(tmp_path, input_path=str(tmp_path / "broken.png")), timeout_s=60)
        with pytest.raises(BadRequest, match="was not encoded"):
            worker.request(message(tmp_path, prompt="Another prompt."), timeout_s=60)
        events = []
        result = worker.request(message(tmp_path), timeout_s=60, on_event=events.append)
        assert (result["width"], result["height"], result["num_frames"], result["fps"]) == (192, 112, 61, 10)
        frames = np.load(tmp_path / "frames.npy")
        assert frames.shape == (61, 112, 192, 3)
        assert frames.dtype == np.uint8
        steps = [(event.step, event.num_steps) for event in events if isinstance(event, Progress)]
        assert steps == sorted(steps)
        assert steps
        # The same request gives the same bytes.
        worker.request(message(tmp_path, frames_path=str(tmp_path / "again.npy")), timeout_s=60)
        assert (np.load(tmp_path / "again.npy") == frames).all()
    finally:
        worker.stop()
    wait_gone(ready.pids)


def test_a_long_video_goes_on_from_its_finished_chunks(micro_root, tmp_path):
    worker = client(micro_root, tmp_path)
    worker.start()
    try:
        worker.request(EncodePrompts(request_id="p", prompts=("A camera.",)), timeout_s=60)
        worker.request(LoadModel(), timeout_s=60)
        events = []
        result = worker.request(message(tmp_path, num_chunks=2), timeout_s=120, on_event=events.append)
        assert result["num_frames"] == 61 + 60
        frames = np.load(tmp_path / "frames.npy")
        assert frames.shape == (121, 112, 192, 3)
        assert [(event.step, event.num_steps) for event in events if isinstance(event, Progress)] == [(1, 2), (2, 2)]
        # An attempt that was cut off after the first chunk makes the second one only, and the same video.
        (tmp_path / "frames.npy.chunk01").unlink()
        events.clear()
        worker.request(message(tmp_path, num_chunks=2), timeout_s=120, on_event=events.append)
        assert [(event.step, event.num_steps) for event in events if isinstance(event, Progress)] == [(2, 2)]
        assert (np.load(tmp_path / "frames.npy") == frames).all()
    finally:
        worker.stop()


def test_a_wrong_checkpoint_is_refused_by_name_before_anything_is_generated(micro_root, tmp_path):
    vae = micro_root / "crossroads" / "micro" / "tokenizer" / "tokenizer.safetensors"
    worker = client(micro_root, tmp_path, checkpoint=str(vae))
    worker.start()
    try:
        with pytest.raises(CheckpointMismatch):
            worker.request(LoadModel(), timeout_s=60)
    finally:
        worker.stop()


def test_a_killed_worker_is_lost_at_once_and_leaves_nothing(micro_root, tmp_path):
    worker = client(micro_root, tmp_path)
    ready = worker.start()
    os.kill(ready.pids[0], signal.SIGKILL)
    started = time.monotonic()
    with pytest.raises(WorkerLost, match="Its log"):
        worker.request(LoadModel(), timeout_s=60)
    assert time.monotonic() - started < 20
    assert not worker.is_alive
    wait_gone(ready.pids)


def test_a_stopped_worker_is_taken_for_dead_when_it_is_silent(micro_root, tmp_path):
    worker = client(micro_root, tmp_path)
    worker._silence_timeout_s = 4.0
    ready = worker.start()
    os.kill(ready.pids[0], signal.SIGSTOP)
    with pytest.raises(WorkerLost, match="silent for 4 s"):
        worker.request(LoadModel(), timeout_s=60)
    wait_gone(ready.pids)


def test_a_worker_that_cannot_start_says_why(micro_root, tmp_path):
    worker = client(micro_root, tmp_path, socket_path="")
    worker.spec = worker.spec.model_copy(update={"socket_path": "/nonexistent-folder/worker.sock"})
    with pytest.raises(WorkerLost, match="while starting"):
        worker.start()


def test_a_worker_ends_when_its_client_is_killed_before_it_connected(micro_root, tmp_path):
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from tests.tasks.test_worker_client import client
        worker = client(Path(sys.argv[1]), Path(sys.argv[2]))
        def die(deadline):
            print(worker._process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        worker._connect = die
        worker.start()
        """
    )
    owner = subprocess.run(
        [sys.executable, "-c", script, str(micro_root), str(tmp_path)], stdout=subprocess.PIPE, timeout=60
    )
    assert owner.returncode == -signal.SIGKILL
    # Far below the minute after which a worker gives up waiting, and above what importing torch takes.
    wait_gone([int(owner.stdout)], timeout_s=40.0)


def test_a_worker_ends_with_its_client(micro_root, tmp_path):
    """A client that is killed with SIGKILL can clean nothing up itself."""
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from tests.tasks.test_worker_client import client
        worker = client(Path(sys.argv[1]), Path(sys.argv[2]))
        print(*worker.start().pids, flush=True)
        time.sleep(600)
        """
    )
    owner = subprocess.Popen([sys.executable, "-c", script, str(micro_root), str(tmp_path)], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert all(is_running(pid) for pid in pids)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_gone(pids)
