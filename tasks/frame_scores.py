"""From scores of single frames to findings about a clip: a category counts when it holds for several frames in a row.

One frame of a crash looks like violence to a classifier that has never seen a crash; a run of frames above a threshold
is what a person would see. The strength of a category is the highest level that it keeps over such a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from cosmos_core.errors import BadInput

__all__ = ["ContentOptions", "Finding", "FrameRule", "findings", "sampled_frames"]


class FrameRule(BaseModel):
    """When a category's frames make a finding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_score: float = Field(default=0.5, gt=0, le=1)
    min_consecutive: int = Field(default=2, ge=1)
    """Looked-at frames in a row; a clip with fewer needs all of them."""


class ContentOptions(BaseModel):
    """How frames are looked at for what they show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int = Field(default=2, ge=1)
    """Every so many frames, and the first and the last."""
    default: FrameRule = FrameRule()
    """For a category without a rule of its own."""
    categories: dict[str, FrameRule] = {}

    def rule(self, category: str) -> FrameRule:
        """The rule of a category."""
        return self.categories.get(category, self.default)


class Finding(BaseModel):
    """A category that a clip was found to hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    category: str
    score: float
    """Level that the category keeps over `min_consecutive` frames in a row, at its strongest place."""
    first_frame: int
    last_frame: int
    """Of that place."""


def sampled_frames(num_frames: int, options: ContentOptions) -> tuple[int, ...]:
    """Indices of the frames to look at.

    Raises:
        BadInput: there are none, and nothing to look at is nothing to pass.
    """
    if num_frames < 1:
        raise BadInput("no frames to look at", got=num_frames, expected="at least one")
    return tuple(sorted({*range(0, num_frames, options.every), num_frames - 1}))


def findings(
    scores: Mapping[str, Sequence[float]], indices: Sequence[int], options: ContentOptions
) -> tuple[tuple[Finding, ...], dict[str, Any]]:
    """What the scores of some frames amount to, strongest first, and the numbers for the record.

    Args:
        scores: for each category one score a frame, in [0, 1].
        indices: numbers of these frames in the clip.

    Raises:
        BadInput: a score is missing or is no score; there is no category or no frame.
    """
    if not scores or not indices:
        raise BadInput("nothing was scored", got=f"{len(scores)} categories, {len(indices)} frames")
    found, measured = [], {}
    for category, values in scores.items():
        if len(values) != len(indices) or not all(_is_score(value) for value in values):
            raise BadInput(
                f"the scores of {category} are no scores",
                got=f"{len(values)} values, {sum(not _is_score(value) for value in values)} wrong",
                expected=f"{len(indices)} numbers in [0, 1]",
            )
        rule = options.rule(category)
        length = min(rule.min_consecutive, len(indices))
        lowest = np.lib.stride_tricks.sliding_window_view(np.asarray(values, dtype=float), length).min(axis=1)
        place = int(lowest.argmax())
        strength = float(lowest[place])
        measured[category] = {
            "largest": round(max(values), 4),
            "strength": round(strength, 4),
            "frames_above": sum(value >= rule.min_score for value in values),
            "min_score": rule.min_score,
            "min_consecutive": length,
        }
        if strength >= rule.min_score:
            last = indices[place + length - 1]
            found.append(Finding(category=category, score=strength, first_frame=indices[place], last_frame=last))
    found.sort(key=lambda finding: -finding.score)
    return tuple(found), measured


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
