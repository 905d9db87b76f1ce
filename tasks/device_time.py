"""Planned against actual: the time of the GPUs, or of the CPU slot, that a run's videos took."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["device_time"]


def device_time(rows: Sequence[dict[str, Any]]) -> str | None:
    """How much device time the videos that this run rendered took, next to what was planned; None if it rendered none.

    Args:
        rows: results rows of a run.
    """
    rendered = [row for row in rows if not row["reused"] and row.get("device_seconds") is not None]
    if not rendered:
        return None
    used = sum(row["device_seconds"] for row in rendered)
    text = f"{_clock(used)} for {len(rendered)} {'video' if len(rendered) == 1 else 'videos'}"
    known = [row for row in rendered if row.get("planned_device_seconds") is not None]
    if not known:
        return f"{text}, plan unknown"
    planned = sum(row["planned_device_seconds"] for row in known)
    compared = sum(row["device_seconds"] for row in known)
    note = "" if len(known) == len(rendered) else f" for {len(known)} of them"
    return f"{text}, planned {_clock(planned)}{note} ({compared / planned - 1:+.0%})"


def _clock(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
