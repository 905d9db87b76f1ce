"""Lanes: the slots that generate, one for each GPU or group of GPUs, or a single one on a machine without.

A lane keeps its worker warm from one scenario to the next and changes it only when a scenario needs other model files,
so scenarios should come ordered by variant. A lane is leased to one task at a time.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cosmos_core.errors import BadModel, Cancelled
from cosmos_core.memory_mode import WORKER_SAVINGS, Saving
from cosmos_core.protocol import AdapterFile, EncodePrompts, GenerateVideo, LoadModel
from tasks.config import WorkerConfig
from tasks.devices import Device, machine_devices
from tasks.versions import AdapterVersion, ModelVersion
from tasks.worker_client import OnEvent, WorkerClient

__all__ = ["Lane", "LanePool", "WorkerPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """What a worker must have loaded for one variant, and the prompts that it will be asked for."""

    model: ModelVersion
    adapters: tuple[AdapterVersion, ...]
    prompts: tuple[str, ...]
    ema: bool = False
    savings: tuple[Saving, ...] = ()
    """The memory mode; a worker does what concerns it."""
    num_devices: int = 1
    """Devices that render one video together."""


@dataclass(slots=True, kw_only=True)
class Lane:
    """One slot and, while it is warm, its worker."""

    name: str
    devices: tuple[Device, ...]
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
            gpu=",".join(device.visible for device in self.devices if device.visible is not None) or None,
            num_processes=len(self.devices),
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
        device = "cpu" if self.devices[0].visible is None else "cuda"
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
            "savings": tuple(saving for saving in WORKER_SAVINGS if saving in plan.savings),
            "ema": plan.ema,
            "device": device,
            "dtype": dtype,
            "embedding_cache": str(self.home / "embeddings"),
            "num_threads": self.config.num_threads,
        }


class LanePool:
    """All lanes of this run. Closing it, or leaving its `with` block, ends every worker.

    Args:
        config: how workers are run.
        home: for logs and embeddings.
        groups: devices that work together, by default each for itself.
    """

    def __init__(self, config: WorkerConfig, home: Path, *, groups: Sequence[tuple[Device, ...]] = ()) -> None:
        self._lanes = [
            Lane(name="+".join(device.name for device in group), devices=group, config=config, home=home)
            for group in groups or [(device,) for device in machine_devices(config)]
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
