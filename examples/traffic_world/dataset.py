"""Clips in numbers: rendered in a pool of processes, for training or as files with a manifest.

    python -m examples.traffic_world.dataset OUT --num 64 --seed 0 --incident t_bone --workers 2

writes `OUT/videos/*.mp4`, `OUT/frames/*.png` (the first frames) and `OUT/manifest.parquet`, which Crossroads takes as
its input. The manifest is written last, so its existence means that the rest is complete.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.pool import AsyncResult
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from examples.traffic_world.clip import Clip, make_clip
from examples.traffic_world.palette import INCIDENTS, LAYOUTS, TIMES, WEATHERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Some clips as arrays."""

    frames: np.ndarray
    """uint8 [N, T, H, W, 3], RGB."""
    captions: tuple[str, ...]
    clips: tuple[Clip, ...]


def render_clips(
    seeds: Iterable[int], *, incident: str | None = None, workers: int = 1, **options: Any
) -> Iterator[Clip]:
    """Clips of seeds in the order of the seeds.

    Args:
        seeds: one a clip.
        incident: of all the clips.
        workers: processes; 1 renders in this one.
        options: passed on to `make_clip`.
    """
    jobs = ((seed, {"incident": incident, **options}) for seed in seeds)
    if workers <= 1:
        yield from map(_render, jobs)
        return
    # Not forked: a process that has started threads, such as one that trains, cannot be forked safely.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_one_thread) as pool:
        ahead: deque[AsyncResult[Clip]] = deque()
        for job in jobs:  # only a few ahead of the reader: clips are megabytes, and the seeds may never end
            ahead.append(pool.apply_async(_render, (job,)))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().get()
        while ahead:
            yield ahead.popleft().get()


def clip_shards(
    seeds: Iterable[int], *, size: int, incident: str | None = None, workers: int = 1, **options: Any
) -> Iterator[Shard]:
    """The same clips in shards of `size`; the last one may be smaller."""
    waiting: list[Clip] = []
    for clip in render_clips(seeds, incident=incident, workers=workers, **options):
        waiting.append(clip)
        if len(waiting) == size:
            yield _shard(waiting)
            waiting = []
    if waiting:
        yield _shard(waiting)


def write_dataset(
    folder: Path, *, num: int, seed: int = 0, incident: str | None = None, workers: int = 1, **options: Any
) -> Path:
    """Write videos, first frames and a manifest of the clips of `num` seeds from `seed` on.

    Returns:
        The path of the manifest.
    """
    import pandas as pd  # renderers in other processes do without these

    from cosmos_core.video_file import write_video

    for name in ("videos", "frames"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    fps = int(options.get("fps", 10))
    rows = []
    seeds = range(seed, seed + num)
    for clip in render_clips(seeds, incident=incident, workers=workers, **options):
        name = f"{incident or 'ordinary'}-{clip.labels.seed:06d}"
        write_video(clip.frames, folder / "videos" / f"{name}.mp4", fps=fps)
        cv2.imwrite(str(folder / "frames" / f"{name}.png"), clip.frames[0, ..., ::-1])
        rows.append(_row(name, clip))
    manifest = folder / "manifest.parquet"
    pd.DataFrame(rows).to_parquet(manifest, index=False)
    return manifest


def _row(name: str, clip: Clip) -> Mapping[str, Any]:
    labels = clip.labels
    facts = {
        "video": f"videos/{name}.mp4",
        "layout": labels.layout,
        "time_of_day": labels.time_of_day,
        "weather": labels.weather,
        "incident": labels.incident or "none",
        "impact_frame": None if labels.impact_frame is None else str(labels.impact_frame),
        "subject": f"{labels.subject_colour} {labels.subject_kind}",
        "subject_direction": labels.subject_direction,
        "subject_in_first_frame": "yes" if labels.subject_in_first_frame else "no",
        "colours": " ".join(labels.colours),
    }
    row = {"scenario_id": name, "input": f"frames/{name}.png", "prompt": clip.caption, "seed": labels.seed}
    return row | {f"label.{key}": value for key, value in facts.items()}


def _render(job: tuple[int, dict[str, Any]]) -> Clip:
    seed, options = job
    return make_clip(seed, **options)


def _one_thread() -> None:
    """A process renders with one thread: the pool is what fills the cores."""
    cv2.setNumThreads(0)


def _shard(clips: list[Clip]) -> Shard:
    return Shard(
        frames=np.stack([clip.frames for clip in clips]),
        captions=tuple(clip.caption for clip in clips),
        clips=tuple(clips),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write clips of the traffic world with a manifest.")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--num", type=int, default=64, help="number of clips")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip")
    parser.add_argument("--incident", choices=INCIDENTS)
    parser.add_argument("--layout", choices=LAYOUTS)
    parser.add_argument("--time-of-day", choices=TIMES)
    parser.add_argument("--weather", choices=WEATHERS)
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    given = parser.parse_args()
    write_dataset(
        given.out,
        num=given.num,
        seed=given.seed,
        incident=given.incident,
        workers=given.workers,
        layout=given.layout,
        time_of_day=given.time_of_day,
        weather=given.weather,
    )


if __name__ == "__main__":
    main()
