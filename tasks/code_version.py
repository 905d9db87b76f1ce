"""Which code is running: package version, and the commit when it runs from a checkout."""

from __future__ import annotations

import functools
import importlib.metadata
import subprocess
from pathlib import Path

from cosmos_core.version import CORE_VERSION
from tasks.records import CodeVersion

__all__ = ["code_version"]

_ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def code_version() -> CodeVersion:
    """Version of the package, of the core's pixels, and of the checkout (None outside one)."""
    return CodeVersion(
        package=importlib.metadata.version("crossroads"),
        core=CORE_VERSION,
        commit=_git("rev-parse", "HEAD"),
        dirty=None if (status := _git("status", "--porcelain", "--untracked-files=no")) is None else bool(status),
    )


def _git(*arguments: str) -> str | None:
    if not (_ROOT / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
