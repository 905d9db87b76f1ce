"""Ways to need less of a GPU's memory, each of which costs time and none of which changes what is computed.

A mode is a set of savings. Results differ from those without them by what another device or another kernel rounds
differently, as between two kinds of GPU. No torch here: plans name savings, workers carry them out.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = ["SAVINGS", "STRIP_ROWS", "WORKER_SAVINGS", "Saving", "WorkerSaving"]

WorkerSaving: TypeAlias = Literal["base", "strips", "loading", "text"]
"""What a generating worker does by itself."""
Saving: TypeAlias = Literal["base", "strips", "loading", "guardrail", "text", "refiner"]

SAVINGS: dict[Saving, str] = {
    "base": "base weights, kept for switching adapters, lie in the host's memory",
    "strips": "the VAE decodes in strips of rows",
    "loading": "8-bit weights are made on the host before they go to the GPU",
    "guardrail": "guard models run on the CPU",
    "text": "the text encoder runs on the CPU",
    "refiner": "the prompt refiner runs on the CPU",
}
"""All savings, the one that costs least first."""

WORKER_SAVINGS: tuple[WorkerSaving, ...] = ("base", "strips", "loading", "text")

STRIP_ROWS = 44
"""Rows of a strip at a quarter of the video's height: 176 rows of pixels, four strips at 720p."""
