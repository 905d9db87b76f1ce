"""Tables on a terminal or in a file."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

__all__ = ["cell", "make_console"]

_PIPED_WIDTH = 200
"""Columns of a table that goes to a file or another program, which has no width of its own."""


def make_console() -> Console:
    """Made when a command runs, so that it writes to the standard output of that moment."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)


def cell(text: str, limit: int = 80, *, style: str = "") -> Text:
    """Foreign text on one line: no markup, and no control characters that would move the terminal's cursor."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return Text(line if len(line) <= limit else f"{line[: limit - 3]}...", overflow="fold", style=style)
