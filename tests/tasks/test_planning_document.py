"""docs/planning.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cosmos_core.architecture import MODELS
from cosmos_core.geometry import video_geometry
from cosmos_core.memory_mode import SAVINGS
from cosmos_core.memory_model import WorkerLoad
from tasks.placement import Demand, fitting


@pytest.fixture
def document(repository: Path) -> str:
    return (repository / "docs" / "planning.md").read_text()


def table(document: str, heading: str) -> list[list[str]]:
    section = document.split(f"## {heading}")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("- ")]


def test_what_fits(document: str) -> None:
    header, *rows = table(document, "What fits")
    sizes = [int(cell.removesuffix(" GB")) for cell in header[2:]]
    assert sizes == [24, 32, 48, 80, 141]
    assert len(rows) == 6
    for variant, weights, *cells in rows:
        model, resolution = variant.removesuffix("p").split()
        load = WorkerLoad(
            model=MODELS[model],
            geometry=video_geometry(model=model, resolution=resolution, fps=16, aspect_ratio="16:9"),
            adapter_ranks=(16,),
            quantize="none" if weights == "bfloat16" else weights,  # type: ignore[arg-type]
        )
        for size, cell in zip(sizes, cells, strict=True):
            found = fitting(Demand(load=load), size * 10**9, num_gpus=8)
            expected = "no"
            if found:
                parts = [f"groups of {found[0]}"] * (found[0] > 1) + list(found[1])
                expected = ", ".join(parts) or "yes"
            assert cell == expected, (variant, weights, size)


def test_every_saving_is_described_in_its_order(document: str) -> None:
    names = [re.sub("`", "", row[0]) for row in table(document, "Memory: `worker.memory_mode`")[1:]]
    assert names == list(SAVINGS)
