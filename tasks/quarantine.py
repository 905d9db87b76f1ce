"""Where held clips lie, with what a person needs to judge them. Only their age removes them, where an operator says so
(`quarantine_expiry`).

    quarantine/<scenario_id>.mp4                 the clip, redacted as far as it could be
    quarantine/<scenario_id>/verdicts.json       why it is held, and which pictures show it
    quarantine/<scenario_id>/frame-0012.jpg      offending frames, with what was found outlined
    quarantine/<scenario_id>/reviews/0001.json   what persons decided, in order
    quarantine/<scenario_id>/earlier/<hash>/...  all of this of an earlier clip of the same scenario

Legend: T frames, H W height and width in pixels; frames are uint8 RGB [T, H, W, 3].
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict

from cosmos_core.video_file import read_video
from tasks.frame_sanity import Frames
from tasks.storage import Store
from tasks.verdicts import Decision, Verdict

__all__ = ["Evidence", "EvidencePicture", "hold_clip", "quarantine_folder", "quarantine_name", "read_evidence"]

_MAX_PICTURES = 6
_MAX_WIDTH = 960
_OUTLINE = (255, 40, 40)

Box = tuple[int, int, int, int]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvidencePicture(_Part):
    """One frame of a held clip."""

    name: str
    """Below the output root."""
    frame: int
    caption: str
    """What it shows, such as `face_residual`, or `context` where no frame in particular was flagged."""


class Evidence(_Part):
    """What lies beside a held clip."""

    scenario_id: str
    job_id: str
    video: str
    video_sha256: str
    pictures: tuple[EvidencePicture, ...]
    decision: Decision

    @property
    def picture_names(self) -> tuple[str, ...]:
        return tuple(picture.name for picture in self.pictures)


def quarantine_name(scenario_id: str) -> str:
    return f"quarantine/{scenario_id}.mp4"


def quarantine_folder(scenario_id: str) -> str:
    return f"quarantine/{scenario_id}"


def hold_clip(
    store: Store, scenario_id: str, video_path: Path, decision: Decision, *, job_id: str, video_sha256: str
) -> Evidence:
    """Put a clip apart with its evidence; an earlier one of the scenario moves aside. Holding it twice changes nothing.

    Raises:
        StorageUnavailable: the store refused or did not answer.
    """
    _move_earlier_aside(store, scenario_id, video_sha256)
    store.publish_file(video_path, quarantine_name(scenario_id), content_type="video/mp4")
    frames = read_video(video_path)
    pictures = []
    for frame, (caption, boxes) in _offending(decision, len(frames)).items():
        name = f"{quarantine_folder(scenario_id)}/frame-{frame:04d}.jpg"
        store.publish_bytes(_picture(frames[frame], boxes), name, content_type="image/jpeg")
        pictures.append(EvidencePicture(name=name, frame=frame, caption=caption))
    evidence = Evidence(
        scenario_id=scenario_id,
        job_id=job_id,
        video=quarantine_name(scenario_id),
        video_sha256=video_sha256,
        pictures=tuple(pictures),
        decision=decision,
    )
    text = json.dumps(evidence.model_dump(mode="json"), indent=2, ensure_ascii=False)
    # Last, so that its existence means that the rest is complete.
    store.publish_bytes(text.encode(), _verdicts_name(scenario_id), content_type="application/json")
    return evidence


def read_evidence(store: Store, scenario_id: str) -> Evidence | None:
    """What lies beside the held clip of a scenario, or None if nothing that can be read does."""
    data = store.read_bytes(_verdicts_name(scenario_id))
    try:
        return Evidence.model_validate_json(data) if data is not None else None
    except ValueError:
        return None


def _verdicts_name(scenario_id: str) -> str:
    return f"{quarantine_folder(scenario_id)}/verdicts.json"


def _move_earlier_aside(store: Store, scenario_id: str, video_sha256: str) -> None:
    earlier = read_evidence(store, scenario_id)
    if earlier is None or earlier.video_sha256 == video_sha256:
        return
    folder = quarantine_folder(scenario_id)
    target = f"{folder}/earlier/{earlier.video_sha256[:16]}"
    files = [name for name in store.list(folder) if not name.startswith(f"{folder}/earlier/")]
    moves = {name: f"{target}/{name.removeprefix(f'{folder}/')}" for name in files}
    moves = {quarantine_name(scenario_id): f"{target}/clip.mp4"} | moves
    for source, place in moves.items():
        data = store.read_bytes(source)
        if data is not None:
            store.publish_bytes(data, place, content_type=_content_type(source))
    # The verdicts go last: as long as they are here, an interrupted move is made again.
    for name in sorted(files, key=lambda name: name == _verdicts_name(scenario_id)):
        store.remove(name)


def _content_type(name: str) -> str:
    return {"mp4": "video/mp4", "jpg": "image/jpeg"}.get(name.rsplit(".", 1)[-1], "application/json")


def _offending(decision: Decision, num_frames: int) -> dict[int, tuple[str, list[Box]]]:
    """Frames to show, with a caption and boxes each: what the checks of the video flagged, or else some for context."""
    shown: dict[int, tuple[list[str], list[Box]]] = {}
    for verdict in decision.verdicts:
        if verdict.stage != "video" or verdict.status != "flag":
            continue
        for frame, caption, boxes in _flagged_frames(verdict, num_frames):
            if 0 <= frame < num_frames:
                captions, all_boxes = shown.setdefault(frame, ([], []))
                captions.append(caption)
                all_boxes += boxes
    chosen = _spread(sorted(shown))
    if not chosen:
        return {frame: ("context", []) for frame in _evenly(0, num_frames - 1)}
    return {frame: (", ".join(dict.fromkeys(shown[frame][0])), shown[frame][1]) for frame in chosen}


def _flagged_frames(verdict: Verdict, num_frames: int) -> Iterable[tuple[int, str, list[Box]]]:
    """Frames that a check names in its evidence; for one that names none, frames all over the clip."""
    evidence, caption = verdict.evidence, ", ".join(filter(None, verdict.categories))
    if verdict.check == "video.redaction":
        for box in _mappings(evidence.get("residual_boxes")):
            place = (int(box["x"]), int(box["y"]), int(box["width"]), int(box["height"]))
            yield int(box["frame"]), f"{box['kind']}_residual", [place]
        return
    findings = _mappings(evidence.get("findings"))
    for finding in findings:
        for frame in _evenly(int(finding["first_frame"]), int(finding["last_frame"])):
            yield frame, str(finding["category"]), []
    if not findings:
        seen = evidence.get("frames")
        frames = [int(frame) for frame in seen if isinstance(frame, int)] if isinstance(seen, list) else []
        yield from ((frame, caption, []) for frame in frames or _evenly(0, num_frames - 1))


def _evenly(first: int, last: int) -> list[int]:
    return sorted({int(frame) for frame in np.linspace(first, last, 3).round()})


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _spread(frames: list[int]) -> list[int]:
    if len(frames) <= _MAX_PICTURES:
        return frames
    return [frames[int(index)] for index in np.linspace(0, len(frames) - 1, _MAX_PICTURES).round()]


def _picture(frame: Frames, boxes: list[Box]) -> bytes:
    image = Image.fromarray(frame)
    scale = min(1.0, _MAX_WIDTH / image.width)
    if scale < 1:
        image = image.resize((_MAX_WIDTH, round(image.height * scale)), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for x, y, width, height in boxes:
        corners = [round(value * scale) for value in (x, y, x + width - 1, y + height - 1)]
        draw.rectangle(corners, outline=_OUTLINE, width=max(1, round(image.width / 480)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling=0)  # thin red lines survive only unsampled
    return buffer.getvalue()
