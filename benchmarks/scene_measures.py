"""All clips of one scene measured against the simulator's truth of that scene.

Legend: T frames, H W height and width, C colour channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.classifier import load_classifier
from benchmarks.clip_measures import blob_speed, motion_curve, psnr, steadiness, still_mask, track_speed
from benchmarks.foreground import Foreground, find_foreground
from benchmarks.incident_measure import incident_probability
from benchmarks.prompt_measures import colour_features, light_features, subject_place
from cosmos_core.video_file import read_video
from examples.traffic_world import Clip, make_clip

__all__ = ["ALL_STEPS", "measure_clip", "measure_scene"]

ALL_STEPS = 35


def measure_scene(job: tuple[Path, int, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row of numbers for each listed clip of a seed.

    Args:
        job: the folder, the seed, and the seed's entries of `clips.json`.
    """
    folder, seed, entries = job
    cv2.setNumThreads(0)
    ordinary = make_clip(seed)
    truths: dict[str | None, Clip] = {None: ordinary}
    for family in {entry["case"]["family"] for entry in entries} - {None}:
        truths[family] = make_clip(seed, incident=family)
    ceilings = {family: measure_clip(clip.frames, clip, ordinary) for family, clip in truths.items()}
    frames = {entry["file"]: _frames(folder / entry["file"]) for entry in entries}
    rows = []
    for entry in entries:
        case = entry["case"]
        truth = truths[case["family"]]
        row: dict[str, Any] = {"file": entry["file"], "seed": seed, "case": case["name"], "layout": truth.labels.layout}
        row |= measure_clip(frames[entry["file"]], truth, ordinary)
        row |= {f"truth {name}": value for name, value in ceilings[case["family"]].items()}
        sibling = _with_all_steps(entry, entries)
        if sibling is not None:
            row["all_steps_psnr"] = psnr(frames[entry["file"]], frames[sibling["file"]])
        rows.append(row)
    return rows


def _frames(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False) if path.suffix == ".npy" else read_video(path)


def measure_clip(frames_THWC: np.ndarray, truth: Clip, ordinary: Clip) -> dict[str, float]:
    """Numbers of one clip, NaN where one has no meaning.

    Args:
        frames_THWC: uint8.
        truth: the simulator's clip of the course that the prompt tells.
        ordinary: the simulator's clip of the same scene in which nothing happens.
    """
    seen = find_foreground(frames_THWC, truth.background)
    moving = motion_curve(seen)
    true_moving = motion_curve(find_foreground(truth.frames, truth.background))
    still = still_mask((truth, ordinary), seen)
    labels, chance = truth.labels, incident_probability(seen)
    light = light_features(frames_THWC)
    return {
        "first_frame_psnr": psnr(frames_THWC[0], truth.frames[0]),
        "unsteadiness": steadiness(frames_THWC, still),
        "motion": float(moving.mean()),
        "motion_ratio": float((moving.mean() + 1e-4) / (true_moving.mean() + 1e-4)),
        "motion_correlation": _correlation(moving, true_moving),
        "speed": blob_speed(seen),
        "track_speed": track_speed(truth),
        "incident": float(chance > 0.5),
        "incident_probability": chance,
        "subject_colour": _subject_colour(seen, truth),
        "time_of_day": float(load_classifier("time_of_day").best(light) == labels.time_of_day),
        "weather": float(load_classifier("weather").best(light) == labels.weather),
    }


def _subject_colour(seen: Foreground, truth: Clip) -> float:
    """1 if what is seen in the subject's place has its colour more than any other; NaN if it was there from the start.

    Nothing there is no match.
    """
    if truth.labels.subject_in_first_frame:
        return float("nan")
    features = colour_features(seen, truth.background, subject_place(truth))
    return float(features is not None and load_classifier("colour").best(features) == truth.labels.subject_colour)


def _with_all_steps(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry that differs from one only by having all steps; none for that one itself."""
    case = entry["case"]
    if case["num_steps"] == ALL_STEPS:
        return None
    alike = (
        other
        for other in entries
        if other["case"]["num_steps"] == ALL_STEPS
        and all(other["case"][key] == case[key] for key in ("family", "strengths"))
    )
    return next(alike, None)


def _correlation(first_T: np.ndarray, second_T: np.ndarray) -> float:
    """Of two curves; NaN if one of them is flat."""
    if min(first_T.std(), second_T.std()) < 1e-6:
        return float("nan")
    return float(np.corrcoef(first_T, second_T)[0, 1])
