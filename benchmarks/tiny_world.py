"""What the tiny model's clips are worth, measured on scenes that no training saw against the simulator's truth.

    python -m benchmarks.tiny_world build/tiny/evaluation --json tiny.json
    python -m benchmarks.tiny_world build/stand-ins --validate 16
    python -m benchmarks.tiny_world build/tiny/evaluation --vae tokenizer.safetensors --vae-clips 8

The folder is one of `benchmarks.tiny_clips`; `--validate` first fills it with simulator clips instead. Every table has
the simulator's own number, measured the same way, next to the model's: no measure here is perfect, and the simulator's
number says how far it can be trusted.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.scene_measures import ALL_STEPS, measure_scene
from benchmarks.stand_in_clips import write_stand_ins

__all__ = ["main", "measure_folder", "steps_curves", "strength_curve", "summary"]

Row = Mapping[str, Any]

_MEASURES = (
    "first_frame_psnr",
    "unsteadiness",
    "motion",
    "motion_ratio",
    "motion_correlation",
    "speed",
    "track_speed",
    "incident",
    "incident_probability",
    "subject_colour",
    "time_of_day",
    "weather",
)
_CURVE = (
    "clips",
    "incident",
    "incident_probability",
    "first_frame_psnr",
    "unsteadiness",
    "motion",
    "motion_ratio",
    "speed",
)
_LAYOUT_OF = {"t_bone": ("intersection",), "rear_end": ("highway", "crosswalk")}
"""Where a collision can happen."""


def measure_folder(folder: Path, *, workers: int = 1, scenes: int | None = None) -> list[dict[str, Any]]:
    """A row of numbers for every clip that `clips.json` lists, scene by scene."""
    by_seed: dict[int, list[Row]] = {}
    for entry in json.loads((folder / "clips.json").read_text())["clips"]:
        by_seed.setdefault(entry["seed"], []).append(entry)
    jobs = [(folder, seed, entries) for seed, entries in sorted(by_seed.items())][:scenes]
    if workers <= 1:
        return [row for job in jobs for row in measure_scene(job)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return [row for rows in pool.imap(measure_scene, jobs) for row in rows]


def summary(rows: Sequence[Row], cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means of every case over its clips, next to the simulator's.

    Args:
        rows: of `measure_folder`.
        cases: as they stand in `clips.json`.
    """
    table = []
    for case in cases:
        mine = [row for row in rows if row["case"] == case["name"]]
        if not mine:
            continue
        found: dict[str, Any] = {**case, "clips": len(mine)}
        for name in _MEASURES:
            found[name] = _mean(row[name] for row in mine)
            found[f"truth {name}"] = _mean(row[f"truth {name}"] for row in mine)
        found["all_steps_psnr"] = _mean(row.get("all_steps_psnr", math.nan) for row in mine)
        for family, layouts in _LAYOUT_OF.items():
            found[f"incident in {family} layouts"] = _mean(row["incident"] for row in mine if row["layout"] in layouts)
        table.append(found)
    return table


def strength_curve(table: Sequence[Row], adapter: str = "collision") -> list[dict[str, Any]]:
    """The rows of one adapter alone at all steps, from the weakest to the strongest."""
    alone = [row for row in table if set(row["strengths"]) == {adapter} and row["num_steps"] == ALL_STEPS]
    points = [{"strength": row["strengths"][adapter]} | {name: row[name] for name in _CURVE} for row in alone]
    return sorted(points, key=lambda point: point["strength"])


def steps_curves(table: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of everything that was made with several numbers of steps, from few to all."""
    alike: dict[str, list[Row]] = {}
    for row in table:
        alike.setdefault(json.dumps([row["family"], row["strengths"]], sort_keys=True), []).append(row)
    keep = ("name", "num_steps", *_CURVE, "all_steps_psnr")
    return [
        {name: row[name] for name in keep}
        for rows in alike.values()
        if len({row["num_steps"] for row in rows}) > 1
        for row in sorted(rows, key=lambda row: row["num_steps"])
    ]


def _mean(values: Iterable[float]) -> float | None:
    """Over the numbers that mean something; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _print(table: Sequence[Row]) -> None:
    console = Console(width=170)
    motion = Table("case", "clips", "frame 0 dB", "unsteady", "moving %", "ratio", "corr.", "px/frame", "35-step dB")
    motion.title = "Picture and motion (simulator's in brackets)"
    told = Table("case", "clips", "incident", "in t_bone layouts", "in rear_end layouts", "colour", "time", "weather")
    told.title = "What is told, % of clips (simulator's in brackets)"
    for row in table:
        motion.add_row(
            row["case"],
            str(row["clips"]),
            _number(row["first_frame_psnr"]),
            _both(row, "unsteadiness", digits=2),
            _both(row, "motion", 100),
            _number(row["motion_ratio"], digits=2),
            _number(row["motion_correlation"], digits=2),
            f"{_both(row, 'speed')} [{_number(row['track_speed'])}]",
            _number(row["all_steps_psnr"]),
        )
        told.add_row(
            row["case"],
            str(row["clips"]),
            _both(row, "incident", 100, digits=0),
            *(_number(row[f"incident in {family} layouts"], 100, digits=0) for family in _LAYOUT_OF),
            *(_both(row, name, 100, digits=0) for name in ("subject_colour", "time_of_day", "weather")),
        )
    console.print(motion)
    legend = "px/frame: moving blobs (those of the simulator's frames) [the simulator's tracks]. "
    legend += "Frames are read back from mp4, which alone costs frame 0 its decibels above about 38."
    console.print(legend, highlight=False, markup=False)
    console.print(told)


def _number(value: float | None, factor: float = 1.0, *, digits: int = 1) -> str:
    return "-" if value is None else f"{value * factor:.{digits}f}"


def _both(row: Row, name: str, factor: float = 1.0, *, digits: int = 1) -> str:
    mine, truth = (_number(row[key], factor, digits=digits) for key in (name, f"truth {name}"))
    return f"{mine} ({truth})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a folder, print tables, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tiny_world", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="file for all numbers, of every clip too")
    parser.add_argument("--validate", type=int, metavar="N", help="first fill the folder with N simulator scenes")
    parser.add_argument("--scenes", type=int, help="measure only the first scenes of the folder")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--vae", type=Path, help="a VAE's weights: measure how well it gives clips back")
    parser.add_argument("--vae-clips", type=int, default=8)
    options = parser.parse_args(arguments)
    if options.validate:
        write_stand_ins(options.folder, range(options.validate))
    listed = json.loads((options.folder / "clips.json").read_text())["clips"]
    cases = list({entry["case"]["name"]: entry["case"] for entry in listed}.values())
    rows = measure_folder(options.folder, workers=options.workers, scenes=options.scenes)
    table = summary(rows, cases)
    _print([{**row, "case": row["name"]} for row in table])
    about: dict[str, Any] = {"cases": table, "strength_curve": strength_curve(table)}
    about["steps_curves"] = steps_curves(table)
    if options.vae is not None:
        from benchmarks.vae_fidelity import vae_fidelity  # torch takes seconds to import

        clips = vae_fidelity(options.vae, range(options.vae_clips))
        means = {name: _mean(clip[name] for clip in clips) for name in ("psnr", "moving_psnr")}
        about["vae"] = {**means, "clips": clips}
        print(f"VAE: {_number(means['psnr'])} dB, moving pixels {_number(means['moving_psnr'])} dB")
    if options.json is not None:
        about["clips"] = [{name: _plain(value) for name, value in row.items()} for row in rows]
        options.json.write_text(json.dumps(about, indent=1) + "\n")


def _plain(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


if __name__ == "__main__":
    main()
