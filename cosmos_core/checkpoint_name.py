"""What a checkpoint's file name says of it: `model-480p-10fps.pt`. No torch here."""

from __future__ import annotations

import re
from pathlib import Path

from cosmos_core.errors import CheckpointMismatch

__all__ = ["check_variant"]

_VARIANT = re.compile(r"(?P<resolution>\d+)p[-_](?P<fps>\d+)fps")


def check_variant(path: Path | str, resolution: str, fps: int, *, force: bool = False) -> None:
    """Compare a file's name with what it is declared to be; names that say nothing pass.

    The variants have equal shapes, so nothing but the name tells a 480p model from a 720p one.

    Raises:
        CheckpointMismatch: the name says another resolution or frame rate, and `force` is off.
    """
    match = _VARIANT.search(Path(path).name)
    if match is None or force or (match["resolution"], match["fps"]) == (resolution, str(fps)):
        return
    raise CheckpointMismatch(
        f"{path} was trained for another variant",
        got=f"{match['resolution']}p at {match['fps']} fps",
        expected=f"{resolution}p at {fps} fps",
        fix="Give the file of the declared variant, declare the file's variant, or force it.",
    )
