"""Rendered clips as files: a pool of processes writes them, training reads them while more are still coming.

    python -m examples.tiny_model.clip_files build/tiny/clips --num 12000 --first-seed 100000

A clip is `<family>-<seed>.npy`, uint8 [T, H, W, 3], and a JSON file beside it with its caption and labels, written
last: where there is a JSON file the clip is whole. Clips that are there already are not rendered again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from examples.traffic_world import make_clip

__all__ = ["ORDINARY", "ClipFile", "finished_clips", "main", "render_to"]

ORDINARY = "ordinary"
_ROUND = 256


@dataclass(frozen=True, slots=True)
class ClipFile:
    """A rendered clip on disk."""

    path: Path
    """The JSON file."""

    @property
    def family(self) -> str:
        return self.path.stem.rpartition("-")[0]

    @property
    def seed(self) -> int:
        return int(self.path.stem.rpartition("-")[2])

    def frames(self) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        return np.load(self.path.with_suffix(".npy"), allow_pickle=False)

    def about(self) -> dict[str, Any]:
        """Caption and labels."""
        return json.loads(self.path.read_text())


def render_to(folder: Path, family: str, seed: int) -> None:
    """Render one clip into the folder, unless it is there."""
    path = folder / f"{family}-{seed:08d}.json"
    if path.exists():
        return
    clip = make_clip(seed, incident=None if family == ORDINARY else family)
    partial_frames = path.with_suffix(f".{os.getpid()}.tmp")
    with partial_frames.open("wb") as file:
        np.save(file, clip.frames)
    partial_frames.replace(path.with_suffix(".npy"))
    about = {
        "caption": clip.caption,
        "incident_captions": clip.incident_captions,
        "labels": dataclasses.asdict(clip.labels),
    }
    partial_about = path.with_suffix(f".{os.getpid()}.tmp")
    partial_about.write_text(json.dumps(about, default=str))
    partial_about.replace(path)


def finished_clips(folder: Path, family: str) -> list[ClipFile]:
    """The family's clips that are whole, by seed."""
    return [ClipFile(path) for path in sorted(folder.glob(f"{family}-*.json"))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Render clips of the given families, a round of each after the other."""
    parser = argparse.ArgumentParser(prog="python -m examples.tiny_model.clip_files", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num", type=int, default=12000, help="clips of each family")
    parser.add_argument("--family", nargs="+", default=[ORDINARY])
    parser.add_argument("--first-seed", type=int, default=100_000, help="seeds below are kept for evaluation")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.num)
    started = time.monotonic()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        for start in range(0, len(seeds), _ROUND):
            round_ = seeds[start : start + _ROUND]
            for family in options.family:
                list(pool.map(partial(render_to, options.folder, family), round_, chunksize=4))
            num_clips = (start + len(round_)) * len(options.family)
            print(f"{num_clips} clips, {num_clips / (time.monotonic() - started):.1f} a second", flush=True)


if __name__ == "__main__":
    main()
