"""Videos and pictures as files, without torch: probe and read what users give, write what they get.

Videos go through the ffmpeg executable of imageio-ffmpeg: decoding streams frame by frame, so that a long video takes
no more memory than the frames that are kept.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Literal

import numpy as np

from cosmos_core.errors import BadInput
from cosmos_core.image_file import IMAGE_SUFFIXES, MAX_PIXELS, read_image, require_size
from cosmos_core.video_writer import SCALER, ffmpeg_executable, write_video

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "InputProbe", "probe_input", "read_image", "read_video", "write_video"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")

_SUFFIXES = IMAGE_SUFFIXES + VIDEO_SUFFIXES
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""What an mp4 or mov can begin with."""
_ADDRESS = re.compile(r" @ 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProbe:
    """What an input file is."""

    kind: Literal["image", "video"]
    width: int
    height: int
    num_frames: int | None = None
    """Frames that can be decoded; None for a picture."""
    fps: float | None = None
    """Mean frames per second; None for a picture or if the file does not say."""


def probe_input(path: Path | str, *, min_frames: int = 1) -> InputProbe:
    """Find out what an input is by decoding all of it.

    The content decides; a suffix that says otherwise is refused (a JPEG named .png is fine, a video is not).

    Args:
        path: the file.
        min_frames: how many frames are needed; more than one takes a video.

    Raises:
        BadInput: the file is missing, empty, of an unsupported type, damaged, cut short, too large or too short.
    """
    path = Path(path)
    kind = _kind(path)
    if kind == "image":
        if min_frames > 1:
            raise BadInput(
                f"{path} is a picture",
                got="1 frame",
                expected=f"a video of at least {min_frames} frames",
                fix="Give a video, or condition on 1 frame.",
            )
        height, width, _ = read_image(path).shape
        return InputProbe(kind="image", width=width, height=height)
    probe = _probe_video(path)
    if probe.num_frames is not None and probe.num_frames < min_frames:
        raise BadInput(f"{path} is too short", got=f"{probe.num_frames} frames", expected=f"at least {min_frames}")
    return probe


def read_video(path: Path | str, *, last: int | None = None) -> np.ndarray:
    """Decode a video, keeping all frames or only the last few.

    Colours are converted by the matrix that the file declares, rotation tags are applied.

    Args:
        path: the file.
        last: how many frames to keep, counted from the end; None keeps all of them in memory.

    Returns:
        uint8 [T, H, W, 3], RGB, in display order; T is smaller than `last` if the video is.

    Raises:
        BadInput: the file is missing, damaged, cut short, too large, or no video.
    """
    path = Path(path)
    if _kind(path) != "video":
        raise BadInput(f"{path} is a picture", expected="a video")
    output = ["-sws_flags", SCALER, "-pix_fmt", "rgb24", "-c:v", "ppm", "-f", "image2pipe", "pipe:1"]
    frames: deque[np.ndarray] = deque(maxlen=last)
    with _decoding(path, output) as stream:
        frames.extend(_ppm_frames(path, stream))
    if not frames:
        raise BadInput(f"{path} has no frames", expected="a video", fix="Export the video again.")
    return np.stack(frames)


def _kind(path: Path) -> Literal["image", "video"]:
    """Picture or video, from the first bytes; the suffix must agree."""
    suffix = path.suffix.lower()
    if not path.is_file():
        raise BadInput("no such input file", got=path)
    if suffix not in _SUFFIXES:
        raise BadInput(
            f"the type of {path} is not supported",
            got=suffix or "no suffix",
            expected=" | ".join(_SUFFIXES),
            fix="Convert the file.",
        )
    with path.open("rb") as file:
        head = file.read(16)
    kind = _sniff(head)
    if path.stat().st_size == 0:
        raise BadInput(f"{path} is empty", got="0 bytes", expected="a picture or a video", fix="Copy the file again.")
    declared: Literal["image", "video"] = "image" if suffix in IMAGE_SUFFIXES else "video"
    if kind != declared:
        raise BadInput(
            f"the content of {path} is not what its name says",
            got=f"{kind or 'neither a known picture nor a known video'} content",
            expected=f"{declared} content for {suffix}",
            fix="Correct the suffix, or export the file again.",
        )
    if kind == "video" and head[4:8] in _BOXES:
        _require_whole_boxes(path)
    return declared


def _require_whole_boxes(path: Path) -> None:
    """Refuse an mp4 or mov that ends inside a box: cut between two frames, it would decode without an error."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(16)
            length = struct.unpack(">I", header[:4])[0] if len(header) >= 8 else 8
            if length == 1 and len(header) == 16:  # the length follows as a 64-bit number
                length = struct.unpack(">Q", header[8:])[0]
            offset = size if length == 0 else offset + max(length, 8)  # 0: until the end of the file
    if offset > size:
        raise BadInput(
            f"{path} is cut short",
            got=f"{size} bytes",
            expected=f"at least {offset}",
            fix="Copy or export the file again.",
        )


def _sniff(head: bytes) -> Literal["image", "video"] | None:
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP"):
        return "image"
    if head[4:8] in _BOXES or head.startswith(b"\x1a\x45\xdf\xa3") or (head[:4], head[8:12]) == (b"RIFF", b"AVI "):
        return "video"
    return None


@contextmanager
def _decoding(path: Path, output: list[str]) -> Iterator[IO[bytes]]:
    """The standard output of an ffmpeg that decodes the first video stream and stops at the first error."""
    command = [ffmpeg_executable(), "-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"]
    command += ["-protocol_whitelist", "file,pipe", "-max_pixels", str(MAX_PIXELS)]
    command += ["-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough", *output]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages)
        assert process.stdout is not None
        try:
            yield process.stdout
            process.stdout.read()
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()
    if code:
        raise BadInput(
            f"{path} is damaged, cut short, or no video that can be decoded",
            got=_ADDRESS.sub("", said.splitlines()[0]) if said else f"ffmpeg exit code {code}",
            expected="a complete video",
            fix="Copy or export the file again.",
        )


def _probe_video(path: Path) -> InputProbe:
    # framecrc prints the frame size and one line for every decoded frame, with its time: a format made for machines.
    num_frames, first, last, width, height, tick = 0, 0, 0, 0, 0, Fraction(0)
    with _decoding(path, ["-c:v", "rawvideo", "-f", "framecrc", "pipe:1"]) as stream:
        for line in stream:
            text = line.decode(errors="replace")
            if text.startswith("#tb 0:"):
                tick = Fraction(text.split(":")[1].strip())
            elif text.startswith("#dimensions 0:"):
                width, height = (int(number) for number in text.split(":")[1].split("x"))
                require_size(path, width, height)
            elif not text.startswith("#"):
                last = int(text.split(",")[2])
                first = last if num_frames == 0 else first
                num_frames += 1
    if num_frames == 0:
        raise BadInput(f"{path} has no frames", expected="a video", fix="Export the video again.")
    seconds = float((last - first) * tick)
    fps = round((num_frames - 1) / seconds, 3) if seconds > 0 else None
    return InputProbe(kind="video", width=width, height=height, num_frames=num_frames, fps=fps)


def _ppm_frames(path: Path, stream: IO[bytes]) -> Iterator[np.ndarray]:
    """Frames [H, W, 3] of a stream of binary PPM pictures, each of which says its own size."""
    while stream.readline():
        width, height = (int(number) for number in stream.readline().split())
        require_size(path, width, height)
        stream.readline()
        data = stream.read(width * height * 3)
        if len(data) == width * height * 3:  # a short rest is an error that ffmpeg reports itself
            yield np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)
