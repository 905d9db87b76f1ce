"""Whether a collision happens in a clip, decided from pixels; fitted and validated on simulator clips.

    python -m benchmarks.incident_measure fit --seed 10000 --scenes 240
    python -m benchmarks.incident_measure validate --seed 20000 --scenes 240

Every scene gives its ordinary clip, its collision and its near miss, each as rendered and degraded to look like a small
model's. The same run fits what tells colours, times of day and weathers from the light (`benchmarks.prompt_measures`).
The seeds of fit, validation and the model's evaluation (from 0 on) are apart.

It was not fitted on clips that fail in other ways: one that merely freezes half-way, with vehicles on the road, is
taken for a collision more often than not. Its rate with an adapter means something only beside the rate without, beside
the motion of the clips, and after a look at some of them. `benchmarks/results/tiny-world-measures.json` has the rates.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from benchmarks.classifier import Classifier, fit_classifier, load_classifier, store_classifiers
from benchmarks.degradation import degraded
from benchmarks.foreground import Foreground, find_foreground
from benchmarks.incident_features import FEATURES, incident_features
from benchmarks.prompt_measures import COLOUR_FEATURES, LIGHT_FEATURES, colour_features, light_features, subject_place
from examples.traffic_world import make_clip

__all__ = ["HAPPENED", "Example", "examples_of", "incident_probability", "main", "validation"]

HAPPENED = ("t_bone", "rear_end")
"""Incidents with contact."""
_ORDINARY = "ordinary"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What is measured of a simulator clip, and what is true of it."""

    seed: int
    family: str
    layout: str
    time_of_day: str
    weather: str
    colour: str
    degraded: bool
    incident: np.ndarray
    light: np.ndarray
    subject: np.ndarray | None


def incident_probability(seen: Foreground) -> float:
    """Chance that a collision happens in a clip, as far as pixels tell."""
    return float(_collision(load_classifier("incident"), incident_features(seen)[None])[0])


def examples_of(seeds: Iterable[int], workers: int = 1) -> list[Example]:
    """All courses of the scenes of seeds, as rendered and degraded."""
    if workers <= 1:
        return [example for seed in seeds for example in _examples(seed)]
    with multiprocessing.get_context("spawn").Pool(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        return [example for found in pool.imap(_examples, seeds) for example in found]


def _examples(seed: int) -> list[Example]:
    ordinary = make_clip(seed)
    clips = {_ORDINARY: ordinary}
    clips |= {family: make_clip(seed, incident=family) for family in ordinary.incident_captions}
    found = []
    for family, clip in clips.items():
        place = subject_place(clip)
        for worse in (False, True):
            frames = degraded(clip.frames, seed) if worse else clip.frames
            seen = find_foreground(frames, clip.background)
            found.append(
                Example(
                    seed=seed,
                    family=family,
                    layout=clip.labels.layout,
                    time_of_day=clip.labels.time_of_day,
                    weather=clip.labels.weather,
                    colour=clip.labels.subject_colour,
                    degraded=worse,
                    incident=incident_features(seen),
                    light=light_features(frames),
                    subject=colour_features(seen, clip.background, place),
                )
            )
    return found


def fitted(examples: Sequence[Example]) -> dict[str, Classifier]:
    """All classifiers of the measurements."""
    happened = ["collision" if example.family in HAPPENED else "none" for example in examples]
    light = np.stack([example.light for example in examples])
    coloured = [(example.subject, example.colour) for example in examples if example.subject is not None]
    return {
        "incident": fit_classifier(
            np.stack([example.incident for example in examples]), happened, FEATURES, products=True, penalty=3e-2
        ),
        "time_of_day": fit_classifier(light, [example.time_of_day for example in examples], LIGHT_FEATURES),
        "weather": fit_classifier(light, [example.weather for example in examples], LIGHT_FEATURES, products=True),
        "colour": fit_classifier(
            np.stack([features for features, _ in coloured]), [name for _, name in coloured], COLOUR_FEATURES
        ),
    }


def validation(examples: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Rates on clips as rendered and on degraded clips."""
    return {
        name: _rates([example for example in examples if example.degraded == worse])
        for name, worse in (("rendered", False), ("degraded", True))
    }


def _rates(examples: Sequence[Example]) -> dict[str, float]:
    found = _collision(load_classifier("incident"), np.stack([example.incident for example in examples])) > 0.5
    family = np.array([example.family for example in examples])
    rates = {f"incident rate, {name}": float(found[family == name].mean()) for name in sorted(set(family))}
    rates |= {f"clips, {name}": float((family == name).sum()) for name in sorted(set(family))}
    happened = np.isin(family, HAPPENED)
    rates["balanced accuracy"] = float((found[happened].mean() + (~found[~happened]).mean()) / 2)
    ordinary = family == _ORDINARY
    rates["balanced accuracy, without near misses"] = float((found[happened].mean() + (~found[ordinary]).mean()) / 2)
    for layout in sorted({example.layout for example in examples}):
        here = np.array([example.layout == layout for example in examples])
        rates[f"accuracy, {layout}"] = float((found == happened)[here].mean())
    for name in ("time_of_day", "weather"):
        classifier = load_classifier(name)
        rates[name] = float(np.mean([classifier.best(one.light) == getattr(one, name) for one in examples]))
    colour = load_classifier("colour")
    rates["subject colour"] = float(
        np.mean([colour.best(one.subject) == one.colour for one in examples if one.subject is not None])
    )
    return rates


def _collision(classifier: Classifier, features_ND: np.ndarray) -> np.ndarray:
    return classifier.probabilities(features_ND)[:, classifier.classes.index("collision")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit or validate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.incident_measure", description=__doc__)
    parser.add_argument("what", choices=("fit", "validate"))
    parser.add_argument("--seed", type=int, required=True, help="of the first scene")
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the rates")
    options = parser.parse_args(arguments)
    examples = examples_of(range(options.seed, options.seed + options.scenes), options.workers)
    if options.what == "fit":
        store_classifiers(fitted(examples))
    rates = validation(examples)
    for name, values in rates.items():
        print(name)
        print("".join(f"  {what:42s} {value:8.3f}\n" for what, value in values.items()), end="")
    if options.json is not None:
        options.json.write_text(json.dumps(rates, indent=1) + "\n")


if __name__ == "__main__":
    main()
