"""What each field of a scenario accepts: one small check a field, from a raw value to a clean one.

Every check takes what a file may hold (text from CSV, floats that pandas made of nullable integers, JSON values) and
returns the clean value, or raises `ValueError` whose text completes the sentence "expected ...".
"""

from __future__ import annotations

import json
import math
import numbers
import re
from collections.abc import Callable, Collection
from decimal import Decimal
from pathlib import PurePosixPath

from cosmos_core.architecture import MODELS
from cosmos_core.geometry import ASPECT_RATIOS, LATENT_FRAMES, SIZES

__all__ = [
    "MAX_PROMPT_CHARS",
    "MAX_SEED",
    "adapter_list",
    "adapter_name",
    "aspect_ratio",
    "fps",
    "input_name",
    "is_blank",
    "is_label_key",
    "label_dict",
    "model_name",
    "number",
    "one_of",
    "output_path",
    "resolution",
    "scenario_name",
    "text",
    "whole_number",
]

MAX_SEED = 2**32 - 1
MAX_PROMPT_CHARS = 20_000
MAX_INPUT_CHARS = 4_096
MAX_OUTPUT_NAME_CHARS = 512
MAX_LABEL_CHARS = 1_000
MAX_ADAPTERS = 16

_SCENARIO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WHOLE = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_NOT_IN_TEXT = re.compile(r"[\x00\ud800-\udfff]")
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DRIVE = re.compile(r"[A-Za-z]:")


def is_blank(value: object) -> bool:
    """Whether a cell holds nothing: null, NaN (how pandas writes a missing number) or empty text."""
    return value is None or (isinstance(value, str) and value == "") or (isinstance(value, float) and math.isnan(value))


def text(*, max_chars: int, empty: bool = False) -> Callable[[object], str]:
    """A check for free text of at most `max_chars` characters; only white space counts as empty."""
    expected = f"{'' if empty else 'non-empty '}text of at most {max_chars} characters, valid Unicode without NUL"

    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > max_chars or not _is_storable(value):
            raise ValueError(expected)
        if not empty and not value.strip():
            raise ValueError(expected)
        return value

    return check


def whole_number(low: int, high: int) -> Callable[[object], int]:
    """A check for a whole number from `low` to `high`; 5.0 and "5" are 5, True and 5.5 are refused."""

    def check(value: object) -> int:
        result = _as_whole(value)
        if result is None or not low <= result <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return result

    return check


def one_of(choices: Collection[int]) -> Callable[[object], int]:
    """A check for one of a few whole numbers."""

    def check(value: object) -> int:
        result = _as_whole(value)
        if result is None or result not in choices:
            raise ValueError(" | ".join(map(str, sorted(choices))))
        return result

    return check


def number(low: float, high: float) -> Callable[[object], float]:
    """A check for a finite number from `low` to `high`."""

    def check(value: object) -> float:
        result = _as_float(value)
        if result is None or not low <= result <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return result

    return check


fps = one_of(LATENT_FRAMES)


def model_name(value: object) -> str:
    return _choice(value, MODELS)


def aspect_ratio(value: object) -> str:
    return _choice(value, ASPECT_RATIOS)


def resolution(value: object) -> str:
    """A resolution's name; 720, 720.0, "720" and "720p" are the same."""
    whole = _as_whole(value)
    if whole is None and isinstance(value, str):
        whole = _as_whole(value.strip().removesuffix("p"))
    return _choice(str(whole), SIZES)


def input_name(value: object) -> str:
    """A path or address; without control characters, because it is printed and opened."""
    expected = f"a path or URI of at most {MAX_INPUT_CHARS} characters without control characters"
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_INPUT_CHARS or not _is_one_line(value):
        raise ValueError(expected)
    return value


def scenario_name(value: object) -> str:
    """A scenario id: it names files, so it has no path parts."""
    if not isinstance(value, str) or not _SCENARIO_ID.fullmatch(value):
        raise ValueError("1 to 128 of A-Z a-z 0-9 . _ - beginning with a letter or digit")
    return value


def adapter_name(value: object) -> str:
    if not isinstance(value, str) or not _ADAPTER_NAME.fullmatch(value):
        raise ValueError("adapter names of 1 to 128 of A-Z a-z 0-9 . _ @ - beginning with a letter or digit")
    return value


def output_path(value: object) -> str:
    """A relative POSIX path that stays below its folder, without needless `.` and `/`."""
    expected = f"a relative path with / between its parts, without .., at most {MAX_OUTPUT_NAME_CHARS} characters"
    if not isinstance(value, str) or len(value) > MAX_OUTPUT_NAME_CHARS or not _is_one_line(value):
        raise ValueError(expected)
    path = PurePosixPath(value)
    unsafe = path.is_absolute() or ".." in path.parts or "\\" in value or _DRIVE.match(value)
    if unsafe or value.endswith("/") or not path.name:
        raise ValueError(expected)
    return str(path)


def adapter_list(value: object) -> list[object]:
    """Adapters as a list of `{name, strength}`, from such a list, one of them, names, or `name[:strength],...`."""
    expected = 'names with optional strengths, such as "its-collision:0.8,night"'
    if isinstance(value, str):
        value = value.split(",") if value.strip() else []
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError(expected)
    if len(value) > MAX_ADAPTERS:
        raise ValueError(f"at most {MAX_ADAPTERS} adapters")
    uses = [_adapter(item) for item in value]
    names = [use.get("name") if isinstance(use, dict) else getattr(use, "name", None) for use in uses]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"each adapter once (here {repeated!r} comes twice)")
    return uses


def label_dict(value: object) -> dict[str, str]:
    """Labels as text by key, from a mapping, a list of pairs (an Arrow map) or JSON text; sorted, blanks dropped."""
    expected = 'a mapping of names (a-z 0-9 _) to text, such as {"weather": "rain"}'
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(expected) from None
    if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
        if len({key for key, _ in value}) < len(value):
            raise ValueError(f"{expected}, each name once")
        value = dict(value)
    if not isinstance(value, dict) or not all(isinstance(key, str) and is_label_key(key) for key in value):
        raise ValueError(expected)
    return {key: _label(key, value[key]) for key in sorted(value) if not is_blank(value[key])}


def is_label_key(key: str) -> bool:
    return _LABEL_KEY.fullmatch(key) is not None


def _label(key: str, value: object) -> str:
    whole = None if isinstance(value, str) else _as_whole(value)  # a count of vehicles is a fair label
    value = value if whole is None else str(whole)
    if not isinstance(value, str) or len(value) > MAX_LABEL_CHARS or not _is_storable(value):
        raise ValueError(f"text of at most {MAX_LABEL_CHARS} characters as the label {key!r}")
    return value


def _adapter(item: object) -> object:
    if not isinstance(item, str):
        return {key: part for key, part in item.items() if not is_blank(part)} if isinstance(item, dict) else item
    name, colon, strength = item.strip().partition(":")
    return {"name": name.strip(), "strength": strength.strip()} if colon else {"name": name}


def _choice(value: object, choices: Collection[str]) -> str:
    name = value.strip() if isinstance(value, str) else value
    if not isinstance(name, str) or name not in choices:
        raise ValueError(" | ".join(choices))
    return name


def _as_whole(value: object) -> int | None:
    if isinstance(value, str):
        stripped = value.strip()
        return int(stripped.partition(".")[0]) if _WHOLE.fullmatch(stripped) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def _as_float(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real | Decimal):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_0 as ten; no file format does
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def _is_one_line(value: str) -> bool:
    """Whether text is free of control characters and lone surrogates: fit for a path and for a terminal."""
    return _NOT_IN_NAMES.search(value) is None


def _is_storable(value: str) -> bool:
    """Whether text survives UTF-8 and C strings: no lone surrogates (JSON can hold them), no NUL."""
    return _NOT_IN_TEXT.search(value) is None
