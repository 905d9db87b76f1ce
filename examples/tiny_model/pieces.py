"""Training in pieces: a piece ends in time and leaves a state from which the next one goes on.

The learning rate depends on the share of all steps that is done: a short rise, a level part, a linear fall to nothing.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

__all__ = ["Piece", "load_state", "save_state", "set_learning_rate"]


@dataclass(slots=True, kw_only=True)
class Piece:
    """What to do now of a training that is as long as its steps, or as the minutes that it may take."""

    num_steps: int | None
    """Of the whole training; none: as many as its minutes allow."""
    train_minutes: float
    """Of the whole training, if its steps are not given."""
    minutes: float
    """After which this piece ends."""
    step: int = 0
    """Steps done."""
    earlier_s: float = 0.0
    """Seconds that earlier pieces took."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since this piece began."""
        return time.monotonic() - self.started

    @property
    def share(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.num_steps is not None:
            return self.step / self.num_steps
        return min(1.0, (self.earlier_s + self.seconds) / (60 * self.train_minutes))

    @property
    def finished(self) -> bool:
        """Whether the whole training is done."""
        return self.share >= 1.0

    @property
    def goes_on(self) -> bool:
        """Whether there is a step to do and time for it."""
        return not self.finished and self.seconds < 60 * self.minutes

    def every(self, num: int) -> bool:
        """Whether something that happens every `num` steps happens now."""
        return self.step % num == 0

    def begin(self) -> None:
        """Let time count from now on: what came before was preparation."""
        self.started = time.monotonic()

    def state(self) -> dict[str, float]:
        """What `resume` needs."""
        return {"step": self.step, "seconds": self.earlier_s + self.seconds}

    def resume(self, state: Mapping[str, float]) -> None:
        """Go on after an earlier piece."""
        self.step, self.earlier_s = int(state["step"]), float(state["seconds"])

    @classmethod
    def add_options(cls, parser: ArgumentParser, *, steps: int) -> None:
        """The options that `of` reads."""
        parser.add_argument(
            "--steps", type=int, default=steps, help="of the whole training; 0: as --train-minutes allow"
        )
        parser.add_argument("--train-minutes", type=float, default=60.0, help="length of the training, with --steps 0")
        parser.add_argument("--minutes", type=float, default=60.0, help="length of this piece")

    @classmethod
    def of(cls, options: Namespace) -> Piece:
        """A piece from the command line."""
        return cls(num_steps=options.steps or None, train_minutes=options.train_minutes, minutes=options.minutes)


def set_learning_rate(optimizer: Optimizer, share_done: float, *, rise: float = 0.01, fall: float = 0.5) -> None:
    """Scale every group's `peak_lr`.

    Args:
        share_done: steps done by steps in all.
        rise: share of the steps in which the rate rises.
        fall: share of the steps, at the end, in which it falls.
    """
    scale = min(1.0, (share_done + 1e-4) / rise, (1.0 - share_done) / fall)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * max(scale, 1e-3)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; the file appears whole."""
    building = path.with_suffix(".tmp")
    torch.save(dict(state), building)
    building.replace(path)


def load_state(path: Path, device: torch.device) -> dict[str, Any] | None:
    """The state of an earlier piece, or none."""
    if not path.exists():
        return None
    return torch.load(path, map_location=device, weights_only=True)
