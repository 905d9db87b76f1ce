"""Models beside the workers: which GPU they are on and how large they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cosmos_core.memory_model import GIB
from tasks.config import parse_config
from tasks.side_models import side_models


def found(**config: Any) -> list[tuple[str, str, int, int | None]]:
    models = side_models(parse_config(config, origin="test"))
    return [(model.name, model.saving, model.gpu, model.num_bytes) for model in models]


def test_nothing_is_on_a_gpu_by_default() -> None:
    assert found() == []


def test_models_on_gpus_with_the_size_of_their_files(tmp_path: Path) -> None:
    guard, refiner = tmp_path / "guard", tmp_path / "refiner"
    for folder in (guard, refiner):
        folder.mkdir()
        (folder / "model-1.safetensors").write_bytes(b"x" * 100)
        (folder / "model-2.safetensors").write_bytes(b"x" * 50)
        (folder / "pytorch_model.bin").write_bytes(b"x" * 150)
        (folder / "config.json").write_text("{}")
    faces = tmp_path / "faces.pth"
    faces.write_bytes(b"x" * 10)
    models = found(
        guards={
            "text": {
                "text.guard_model": {"kind": "transformers", "folder": guard, "form": "llama_guard", "device": "cuda:1"}
            },
            "content": {"kind": "siglip", "encoder": tmp_path / "none", "device": "cuda"},
            "faces": {"kind": "retinaface", "weights": faces, "device": "cuda"},
        },
        refiner={"kind": "transformers", "path": refiner},
    )
    assert models == [
        ("text.guard_model", "guardrail", 1, 150 + 2 * GIB),
        ("content guard", "guardrail", 0, None),
        ("face guard", "guardrail", 0, 10 + 2 * GIB),
        ("prompt refiner", "refiner", 0, 150 + 2 * GIB),
    ]


def test_what_runs_on_the_cpu_or_elsewhere_needs_no_gpu(tmp_path: Path) -> None:
    endpoint = {"url": "http://127.0.0.1:8000/v1", "model": "guard"}
    assert (
        found(
            guards={"text": {"text.guard_model": {"kind": "transformers", "folder": tmp_path, "form": "llama_guard"}}},
            refiner={"kind": "transformers", "path": tmp_path, "device": "cpu"},
        )
        == []
    )
    assert found(refiner={"kind": "endpoint", "endpoint": endpoint}) == []
