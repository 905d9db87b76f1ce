"""The record beside each video of the drop-in command: all that went in, what was loaded, what came out."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cosmos_core.drop_in_arguments import Arguments
from cosmos_core.drop_in_items import Item
from cosmos_core.drop_in_model import ModelPlan
from cosmos_core.errors import StorageUnavailable
from cosmos_core.guardrail_hook import GuardrailDecision
from cosmos_core.hashing import sha256_file
from cosmos_core.version import CORE_VERSION

__all__ = ["record_of", "record_path", "write_record"]


def record_path(video: Path) -> Path:
    """`generated_video.mp4.json`: never the name of a batch file."""
    return video.with_name(f"{video.name}.json")


def record_of(
    video: Path,
    item: Item,
    *,
    arguments: Arguments,
    plan: ModelPlan,
    proof: dict[str, Any],
    decision: GuardrailDecision,
    generation: dict[str, Any],
    timings_s: dict[str, float],
    world_size: int,
) -> dict[str, Any]:
    """The record of a video that has been written, JSON-ready."""
    spec = plan.spec
    files = {"checkpoint": spec.checkpoint, "vae": spec.vae, "text_encoder": spec.text_encoder}
    return {
        "video": {
            "name": video.name,
            "sha256": sha256_file(video),
            "num_bytes": video.stat().st_size,
            **{name: generation[name] for name in ("width", "height", "num_frames", "fps")},
        },
        "status": "published" if decision.publishes else "quarantined",
        "reasons": list(decision.reasons),
        "input": {"path": str(item.input_path), "sha256": sha256_file(item.input_path)},
        "prompt": item.prompt,
        "negative_prompt": arguments.negative_prompt,
        "prompt_refiner": None,
        "item": item.number if arguments.batch_input_json is not None else None,
        "arguments": _arguments(arguments),
        "model": {
            "size": spec.model,
            "device": spec.device,
            "dtype": spec.dtype,
            **{name: {"path": path, "sha256": plan.sha256.get(path)} for name, path in files.items()},
        },
        "adapter": _adapter(plan),
        "proof": proof,
        "guardrail": {"disabled": arguments.disable_guardrail, "outcome": decision.outcome, **decision.record},
        "generation": generation,
        "timings_s": timings_s,
        "environment": {
            "core": CORE_VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "gpu": torch.cuda.get_device_name() if spec.device == "cuda" else None,
            "processes": world_size,
        },
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_record(video: Path, record: dict[str, Any]) -> Path:
    """Write a record beside its video, whole or not at all.

    Raises:
        StorageUnavailable: it could not be written.
    """
    path = record_path(video)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(record, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageUnavailable(f"{path} could not be written", got=error.strerror or error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _arguments(arguments: Arguments) -> dict[str, Any]:
    values = asdict(arguments) | {"given": sorted(arguments.given)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _adapter(plan: ModelPlan) -> dict[str, Any] | None:
    if plan.adapter is None:
        return None
    file = plan.spec.adapters[0]
    return {
        "path": file.path,
        "sha256": file.sha256,
        "kind": plan.adapter_kind,
        "rank": plan.adapter.rank,
        "alpha": plan.adapter.alpha,
        "target_modules": list(plan.adapter.targets),
    }
