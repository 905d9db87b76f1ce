"""What the drop-in command is asked to make: one video or the items of a batch file, checked before anything runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmos_core.drop_in_arguments import Arguments
from cosmos_core.errors import BadInput, BadManifest, BadRequest, BadScenario, CrossroadsError
from cosmos_core.video_file import probe_input

__all__ = ["BadItem", "Item", "read_items"]

_KEYS = ("input_video", "prompt", "output_video")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One video to make."""

    number: int
    """From 1, in the order of the batch file."""
    input_path: Path
    prompt: str
    save_path: Path
    ignored: tuple[str, ...] = ()
    """Keys of the batch file that nothing here reads, as in the reference."""

    @property
    def quarantine_path(self) -> Path:
        return self.save_path.parent / "quarantine" / self.save_path.name


@dataclass(frozen=True, slots=True, kw_only=True)
class BadItem:
    """An item of a batch that cannot be made."""

    number: int
    error: CrossroadsError


def read_items(arguments: Arguments) -> tuple[list[Item], list[BadItem]]:
    """The items to make, and those that are wrong; the folders of the videos exist afterwards.

    Raises:
        BadManifest: the batch file is not a list of items.
        BadRequest: without a batch file, what is wrong with the one video.
    """
    if arguments.batch_input_json is None:
        item = Item(
            number=1,
            input_path=Path(arguments.input_path),
            prompt=arguments.prompt,
            save_path=Path(arguments.save_path),
        )
        _check(item, arguments)
        return [item], []
    good: list[Item] = []
    bad: list[BadItem] = []
    taken: dict[Path, int] = {}
    for number, row in enumerate(_read_batch(Path(arguments.batch_input_json)), 1):
        try:
            item = _item(number, row)
            if (first := taken.setdefault(item.save_path.absolute(), number)) != number:
                raise BadScenario(
                    "output_video", got=f"{item.save_path}, as item {first}", expected="a name of its own"
                )
            _check(item, arguments)
            good.append(item)
        except CrossroadsError as error:
            bad.append(BadItem(number=number, error=error))
    return good, bad


def _read_batch(path: Path) -> list[Any]:
    expected = f"a list of objects with {', '.join(_KEYS)}"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadManifest(
            "the batch file cannot be read", got=f"{path} ({error.strerror})", expected=expected
        ) from error
    except ValueError as error:
        raise BadManifest(f"{path} is not JSON", got=error, expected=expected) from error
    if not isinstance(rows, list) or not rows:
        raise BadManifest(f"{path} holds no items", got=type(rows).__name__, expected=expected)
    return rows


def _item(number: int, row: Any) -> Item:
    if not isinstance(row, dict):
        raise BadScenario("not an item", got=type(row).__name__, expected=f"an object with {', '.join(_KEYS)}")
    for key in ("input_video", "prompt"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise BadScenario(key, got=repr(row[key]) if key in row else "nothing", expected="a text")
    output = row.get("output_video", f"output_{number - 1}.mp4")
    if not isinstance(output, str) or not output:
        raise BadScenario("output_video", got=repr(output), expected="a file name")
    return Item(
        number=number,
        input_path=Path(row["input_video"]),
        prompt=row["prompt"],
        save_path=Path(output),
        ignored=tuple(key for key in row if key not in _KEYS),
    )


def _check(item: Item, arguments: Arguments) -> None:
    if not item.prompt.strip() and not arguments.disable_guardrail:
        raise BadRequest("the prompt is empty", got=repr(item.prompt), fix="Describe the video with --prompt.")
    if item.save_path.suffix.lower() != ".mp4":
        raise BadRequest("videos are written as mp4", got=item.save_path, expected="a name in .mp4")
    probe_input(item.input_path, min_frames=arguments.num_conditional_frames)
    folder = item.save_path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput("no folder can be made for the video", got=f"{folder} ({error.strerror})") from error
    if item.save_path.is_dir() or not os.access(folder, os.W_OK):
        raise BadInput("the video cannot be written", got=item.save_path, expected="a file in a writable folder")
