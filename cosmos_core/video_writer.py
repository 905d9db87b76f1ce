"""Writing videos: H.264 that says how it is coded, reproducible to the byte, complete or not there.

Frames are converted and tagged as BT.709; an untagged file is guessed to be BT.601 by some players and BT.709 by
others, which shifts its colours.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from cosmos_core.errors import BadRequest, StorageUnavailable

__all__ = ["SCALER", "ffmpeg_executable", "write_video"]

_METADATA_KEYS = ("title", "artist", "comment", "description", "copyright", "synopsis")
_ENCODER_THREADS = 4
"""The bytes that x264 writes depend on its number of threads, so it must not follow the machine."""
SCALER = "bicubic+accurate_rnd+full_chroma_int"
"""Flags of ffmpeg's scaler, which also converts colours."""


def ffmpeg_executable() -> str:
    """Path of the ffmpeg that imageio-ffmpeg brings along."""
    executable: str = imageio_ffmpeg.get_ffmpeg_exe()
    return executable


def write_video(
    frames_THWC: np.ndarray,
    path: Path | str,
    *,
    fps: float,
    crf: float = 18,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an H.264 mp4 (yuv420p, BT.709, index first). Equal arguments give equal bytes.

    The file appears under its name only when it is complete.

    Args:
        frames_THWC: uint8 RGB; even height and width.
        path: where to write; the folder must exist.
        fps: frames per second.
        crf: quality of x264, 0 (lossless) to 51.
        metadata: texts to store, under the keys title, artist, comment, description, copyright, synopsis.

    Raises:
        BadRequest: the frames, the rate or the metadata cannot be written.
        StorageUnavailable: the file could not be written.
    """
    path = Path(path)
    _check_writable(frames_THWC, fps, crf, metadata or {})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _encode(frames_THWC, temporary, fps, crf, metadata or {})
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageUnavailable(f"{path} could not be written", got=error.strerror or error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_writable(frames: np.ndarray, fps: float, crf: float, metadata: Mapping[str, str]) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0 or frames.dtype != np.uint8:
        raise BadRequest("frames of a video", got=f"{frames.dtype} {frames.shape}", expected="uint8 [T, H, W, 3]")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2 or not height or not width:
        raise BadRequest(
            "size of a video", got=f"{width} x {height}", expected="even numbers", fix="4:2:0 colour needs them."
        )
    if not fps > 0:
        raise BadRequest("frames per second", got=fps, expected="a positive number")
    if not 0 <= crf <= 51:
        raise BadRequest("crf", got=crf, expected="0 to 51")
    unknown = sorted(set(metadata) - set(_METADATA_KEYS))
    if unknown:
        raise BadRequest("metadata of a video", got=", ".join(unknown), expected=" | ".join(_METADATA_KEYS))


def _encode(frames: np.ndarray, path: Path, fps: float, crf: float, metadata: Mapping[str, str]) -> None:
    rate = str(Fraction(fps).limit_denominator(1001))
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    command = [ffmpeg_executable(), "-hide_banner", "-loglevel", "error", "-y"]
    command += ["-f", "rawvideo", "-pixel_format", "rgb24", "-video_size", size, "-framerate", rate, "-i", "pipe:0"]
    command += ["-vf", _colour_filter(), "-fps_mode", "passthrough"]
    command += ["-c:v", "libx264", "-preset", "medium", "-crf", f"{crf:g}", "-threads", str(_ENCODER_THREADS)]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    command += ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
    for key, value in sorted(metadata.items()):
        command += ["-metadata", f"{key}={value}"]
    command += ["-f", "mp4", f"file:{path}"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=messages, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        try:
            for frame in frames:
                process.stdin.write(np.ascontiguousarray(frame).data)
            process.stdin.close()
            code = process.wait()
        except BrokenPipeError:
            code = process.wait() or 1
        finally:
            process.kill()
            process.wait()
        messages.seek(0)
        said = messages.read().decode(errors="replace").strip()
    if code:
        raise StorageUnavailable(
            f"{path.parent} did not take a video", got=said.splitlines()[-1] if said else f"exit code {code}"
        )


def _colour_filter() -> str:
    """Convert RGB to BT.709 in the limited range, and say so in every frame."""
    convert = f"scale=out_color_matrix=bt709:out_range=tv:flags={SCALER}"
    tag = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
    return f"{convert},format=yuv420p,{tag}"
