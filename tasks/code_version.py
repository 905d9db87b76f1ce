"""Which code is running: package version, the commit when it runs from a checkout, and what it is built on."""

from __future__ import annotations

import functools
import importlib.metadata
import re
import subprocess
from pathlib import Path

from cosmos_core.version import CORE_VERSION
from cosmos_core.video_writer import ffmpeg_executable
from tasks.records import CodeVersion

__all__ = ["code_version", "package_versions"]

_ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 20.0


@functools.cache
def code_version() -> CodeVersion:
    """Version of the package, of the core's pixels, and of the checkout (None outside one)."""
    return CodeVersion(
        package=importlib.metadata.version("crossroads"),
        core=CORE_VERSION,
        commit=_git("rev-parse", "HEAD"),
        dirty=None if (status := _git("status", "--porcelain", "--untracked-files=no")) is None else bool(status),
    )


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages that this one asks for at run time, and of the ffmpeg that encodes."""
    wanted = (line for line in importlib.metadata.requires("crossroads") or () if "extra ==" not in line)
    names = sorted(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower() for line in wanted)
    versions = {name: version for name in names if (version := _installed(name))}
    said = _output_of(ffmpeg_executable(), "-version")
    return versions | {"ffmpeg": said.split()[2] if said and len(said.split()) > 2 else "unknown"}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    return _output_of("git", "-C", str(_ROOT), *arguments) if (_ROOT / ".git").exists() else None


def _output_of(*command: str) -> str | None:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
