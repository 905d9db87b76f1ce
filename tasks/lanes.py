"""Lanes: the slots that generate, one for each GPU, or a single one on a machine without.

A lane keeps its worker warm from one scenario to the next and changes it only when a scenario needs other model files,
so scenarios should come ordered by variant. A lane is leased to one task at a time.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosmos_core.errors import BadModel, Cancelled
from cosmos_core.protocol import AdapterFile, EncodePrompts, GenerateVideo, LoadModel
from tasks.config import WorkerConfig
from tasks.versions import AdapterVersion, ModelVersion
from tasks.worker_client import OnEvent, WorkerClient

__all__ = ["Lane", "LanePool", "WorkerPlan", "visible_gpus"]


def visible_gpus() -> tuple[str, ...]:
    """GPUs of this machine as `CUDA_VISIBLE_DEVICES` names them (index or UUID), without importing torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    if answer.returncode != 0:
        return ()
    return tuple(line for line in answer.stdout.split() if line.isdigit())


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a worker must have loaded for one variant, and the prompts that it will be asked for."""

    model: ModelVersion
    adapters: tuple[AdapterVersion, ...]
    prompts: tuple[str, ...]
    ema: bool = False


@dataclass(slots=True, kw_only=True)
class Lane:
    """One slot and, while it is warm, its worker."""

    name: str
    gpu: str | None
    config: WorkerConfig
    home: Path
    worker: WorkerClient | None = None
    plan: WorkerPlan | None = None
    proof: dict[str, Any] = field(default_factory=dict)
    refused: tuple[WorkerPlan, BadModel] | None = None
    """A plan whose model files are wrong: no scenario needs to find that out again."""

    def prepare(self, plan: WorkerPlan, on_event: OnEvent | None = None) -> None:
        """Make sure that a live worker has loaded what the plan says.

        Raises:
            WorkerLost: it could not be started.
            BadModel: a model file is wrong.
        """
        if self.worker is not None and self.worker.is_alive and self.plan == plan:
            return
        if self.refused is not None and self.refused[0] == plan:
            raise self.refused[1]
        self.close()
        worker = WorkerClient(
            self._spec(plan),
            log_folder=self.home / "logs",
            gpu=self.gpu,
            startup_timeout_s=self.config.startup_timeout_s,
            silence_timeout_s=self.config.silence_timeout_s,
        )
        self.worker = worker
        worker.start()
        timeout_s = self.config.load_timeout_s
        worker.request(
            EncodePrompts(request_id="prompts", prompts=plan.prompts), timeout_s=timeout_s, on_event=on_event
        )
        try:
            self.proof = worker.request(LoadModel(), timeout_s=timeout_s, on_event=on_event)
        except BadModel as error:
            self.refused = (plan, error)
            raise
        self.plan = plan

    def generate(self, message: GenerateVideo, on_event: OnEvent | None = None) -> dict[str, Any]:
        """Have one video generated; the plan must have been prepared."""
        assert self.worker is not None
        return self.worker.request(message, timeout_s=self.config.scenario_timeout_s, on_event=on_event)

    @property
    def environment(self) -> dict[str, str]:
        ready = self.worker.ready if self.worker else None
        return ready.environment | {"device": ready.device} if ready else {}

    def close(self) -> None:
        if self.worker is not None:
            self.worker.stop()
        self.worker = None
        self.plan = None

    def _spec(self, plan: WorkerPlan) -> dict[str, Any]:
        device = "cpu" if self.gpu is None else "cuda"
        dtype = self.config.dtype if self.config.dtype != "auto" else {"cpu": "float32", "cuda": "bfloat16"}[device]
        return {
            "model": plan.model.variant.model,
            "checkpoint": plan.model.base.path,
            "checkpoint_sha256": plan.model.base.sha256,
            "vae": plan.model.vae.path,
            "text_encoder": plan.model.text_encoder.path,
            "text_encoder_sha256": plan.model.text_encoder.sha256,
            "adapters": [
                AdapterFile(
                    name=adapter.name,
                    path=adapter.file.path,
                    sha256=adapter.file.sha256,
                    rank=adapter.rank,
                    alpha=adapter.alpha,
                    target_modules=adapter.target_modules,
                    source_adapter=adapter.source_adapter,
                    allow_inert=adapter.allow_inert,
                )
                for adapter in plan.adapters
            ],
            "merge_adapters": self.config.merge_adapters,
            "text_dtype": self.config.text_dtype,
            "rope_table": self.config.rope_table,
            "quantize": self.config.quantize,
            "ema": plan.ema,
            "device": device,
            "dtype": dtype,
            "embedding_cache": str(self.home / "embeddings"),
            "num_threads": self.config.num_threads,
        }


class LanePool:
    """All lanes of this run. Closing it, or leaving its `with` block, ends every worker."""

    def __init__(self, config: WorkerConfig, home: Path) -> None:
        gpus = () if config.device == "cpu" else config.gpus or visible_gpus()
        self._lanes = [Lane(name=f"gpu{gpu}", gpu=gpu, config=config, home=home) for gpu in gpus] or [
            Lane(name="cpu", gpu=None, config=config, home=home)
        ]
        self._idle = list(self._lanes)
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()
        self.closed = False

    def __len__(self) -> int:
        return len(self._lanes)

    def __enter__(self) -> LanePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def lease(self, plan: WorkerPlan) -> Iterator[Lane]:
        """Wait for a free lane, first come, first served, preferring one that is warm for the plan.

        Raises:
            Cancelled: the pool was closed in the meantime.
        """
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self.closed or (self._idle and self._waiting[0] is ticket))
            self._waiting.remove(ticket)
            if self.closed:
                raise Cancelled("the run is being stopped")
            lane = max(self._idle, key=lambda lane: (lane.plan == plan, lane.plan is None))
            self._idle.remove(lane)
            self._changed.notify_all()
        try:
            yield lane
        finally:
            with self._changed:
                self._idle.append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """End every worker, also those in the middle of something."""
        with self._changed:
            self.closed = True
            idle = list(self._idle)
            self._changed.notify_all()
        for lane in self._lanes:
            if lane.worker is not None:
                lane.worker.stop() if lane in idle else lane.worker.kill()
