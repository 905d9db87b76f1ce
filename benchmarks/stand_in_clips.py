"""Simulator clips in the folder form of `benchmarks.tiny_clips`, as rendered and degraded.

They show what `benchmarks.tiny_world` says of perfect clips and of clips that are merely soft, grainy and tinted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.degradation import degraded
from cosmos_core.video_file import write_video
from examples.traffic_world import make_clip

__all__ = ["write_stand_ins"]


def write_stand_ins(folder: Path, seeds: Iterable[int]) -> Path:
    """Write every course of the scenes of seeds, twice, and list them in `clips.json`, last."""
    folder.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, Any]] = []
    for seed in seeds:
        for family in (None, *make_clip(seed).incident_captions):
            clip = make_clip(seed, incident=family)
            for kind in ("simulator", "degraded"):
                name = f"{kind}-{family}" if family else kind
                frames = clip.frames if kind == "simulator" else degraded(clip.frames, seed)
                file = f"{name}-{seed:04d}.mp4"
                write_video(frames, folder / file, fps=10, crf=14)
                case = {"name": name, "family": family, "strengths": {}, "num_steps": 35}
                listed.append({"file": file, "seed": seed, "case": case, "prompt": clip.caption})
    index = folder / "clips.json"
    index.write_text(json.dumps({"clips": listed}, indent=1) + "\n")
    return index
