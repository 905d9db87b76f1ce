"""Pictures and videos as files: what is refused, what comes back, what is written."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from cosmos_core import image_file
from cosmos_core.errors import BadInput, BadRequest, StorageUnavailable
from cosmos_core.video_file import probe_input, read_image, read_video, write_video

COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (250, 140, 20),
    (9, 9, 9),
]


def colour_bars(num_frames: int = 6, height: int = 64) -> np.ndarray:
    bars = np.repeat(np.array(COLOURS, np.uint8), 16, axis=0)
    return np.tile(bars, (num_frames, height, 1, 1))


def numbered(num_frames: int) -> np.ndarray:
    """Frame i is grey of brightness 20 i."""
    return np.tile((np.arange(num_frames, dtype=np.uint8) * 20)[:, None, None, None], (1, 32, 48, 3))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(numbered(9), path, fps=10)
    return path


def describe(path: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


def test_saturated_colours_survive(tmp_path: Path) -> None:
    frames = colour_bars()
    write_video(frames, tmp_path / "bars.mp4", fps=16, crf=10)
    back = read_video(tmp_path / "bars.mp4")
    assert back.shape == frames.shape
    centres = slice(6, None, 16)  # colour is subsampled, so borders blend
    difference = np.abs(back.astype(int) - frames)[:, :, centres]
    assert difference.max() <= 4


def test_the_file_says_how_it_is_coded(tmp_path: Path) -> None:
    write_video(colour_bars(), tmp_path / "bars.mp4", fps=16, metadata={"comment": "synthetic", "title": "a b"})
    text = describe(tmp_path / "bars.mp4")
    assert "h264" in text
    assert "yuv420p(tv, bt709, progressive)" in text
    assert "128x64" in text
    assert "16 fps" in text
    assert "synthetic" in text
    assert "a b" in text


def test_the_index_comes_first_and_bytes_are_reproducible(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 96, 3), dtype=np.uint8)
    for name in ("a.mp4", "b.mp4"):
        write_video(noise, tmp_path / name, fps=10, metadata={"comment": "synthetic"})
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (np.zeros((2, 33, 48, 3), np.uint8), {}, "even numbers"),
        (np.zeros((2, 32, 47, 3), np.uint8), {}, "even numbers"),
        (np.zeros((0, 32, 48, 3), np.uint8), {}, "frames of a video"),
        (np.zeros((2, 32, 48, 3), np.float32), {}, "uint8"),
        (np.zeros((2, 32, 48, 3), np.uint8), {"crf": 52}, "crf"),
        (np.zeros((2, 32, 48, 3), np.uint8), {"fps": 0}, "frames per second"),
        (np.zeros((2, 32, 48, 3), np.uint8), {"metadata": {"creation_time": "now"}}, "metadata"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, frames: np.ndarray, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadRequest, match=message):
        write_video(frames, tmp_path / "clip.mp4", **{"fps": 10, **options})  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable):
        write_video(numbered(2), tmp_path / "missing" / "clip.mp4", fps=10)
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(StorageUnavailable):
        write_video(numbered(2), tmp_path / "clip.mp4", fps=10)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_probe_counts_frames(video: Path) -> None:
    probe = probe_input(video, min_frames=5)
    assert (probe.kind, probe.width, probe.height, probe.num_frames, probe.fps) == ("video", 48, 32, 9, 10.0)
    with pytest.raises(BadInput, match="too short: got 9 frames, expected at least 10"):
        probe_input(video, min_frames=10)


def test_only_the_last_frames_are_kept(video: Path) -> None:
    for last in (1, 5):
        frames = read_video(video, last=last)
        assert frames.shape == (last, 32, 48, 3)
        expected = np.arange(9 - last, 9) * 20
        assert np.abs(frames.mean(axis=(1, 2, 3)) - expected).max() < 3
    assert len(read_video(video)) == 9
    assert len(read_video(video, last=99)) == 9


def test_every_way_of_cutting_a_video_short_is_noticed(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    start = data.find(b"mdat")
    for end in [0, 5, 30, start // 2, *range(start + 700, len(data), 37), len(data) - 1]:
        cut = tmp_path / "cut.mp4"
        cut.write_bytes(data[:end])
        with pytest.raises(BadInput):
            probe_input(cut)


def test_a_damaged_video_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)
    path = tmp_path / "noise.mp4"
    write_video(noise, path, fps=10)
    data = bytearray(path.read_bytes())
    middle = (data.find(b"mdat") + len(data)) // 2
    data[middle : middle + 1000] = bytes(1000)
    path.write_bytes(data)
    for read in (probe_input, read_video):
        with pytest.raises(BadInput, match="damaged") as error:
            read(path)
        assert "0x" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg", "JPEG", "webp", "bmp"])
def test_pictures_of_every_format(tmp_path: Path, suffix: str) -> None:
    picture = Image.fromarray(colour_bars(1)[0])
    path = tmp_path / f"picture.{suffix}"
    kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(suffix.lower(), suffix.upper())
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    picture.save(path, kind, **options)
    back = read_image(path)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - np.asarray(picture)).max() <= (30 if kind == "JPEG" else 0)
    probe = probe_input(path)
    assert (probe.kind, probe.width, probe.height, probe.num_frames) == ("image", 128, 64, None)


def test_every_colour_model_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    rgb = np.stack([grey, grey[::-1], np.full_like(grey, 7)], axis=-1)
    rgba = np.concatenate([rgb, np.where(grey[..., None] < 128, 0, 255).astype(np.uint8)], axis=-1)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    Image.fromarray(grey > 99).save(tmp_path / "bits.png")

    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), np.where(grey[..., None] < 128, 0, rgb))
    assert read_image(tmp_path / "palette.png").shape == (16, 16, 3)
    np.testing.assert_array_equal(np.unique(read_image(tmp_path / "bits.png")), [0, 255])


def test_the_orientation_tag_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees when shown
    Image.fromarray(colour_bars(1)[0]).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (64, 128, 3)


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "photo.webp", "photo.bmp"])
def test_a_picture_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(BadInput, match=r"damaged|cannot be read"):
            probe_input(path)


def test_files_that_are_no_input(tmp_path: Path, video: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "list.mp4").write_text("#EXTM3U\nfile:///etc/hostname\n")
    (tmp_path / "video.png").write_bytes(video.read_bytes())
    Image.fromarray(colour_bars(1)[0]).save(tmp_path / "picture.png")
    (tmp_path / "picture.mp4").write_bytes((tmp_path / "picture.png").read_bytes())
    (tmp_path / "picture.jpg").write_bytes((tmp_path / "picture.png").read_bytes())
    for name, message in {
        "absent.png": "no such input file",
        "empty.jpg": "is empty",
        "notes.txt": "not supported",
        "text.png": "not what its name says: got neither",
        "list.mp4": "not what its name says: got neither",
        "video.png": "got video content, expected image content",
        "picture.mp4": "got image content, expected video content",
    }.items():
        with pytest.raises(BadInput, match=message):
            probe_input(tmp_path / name)
    assert probe_input(tmp_path / "picture.jpg").kind == "image"
    with pytest.raises(BadInput, match="expected a video of at least 5 frames"):
        probe_input(tmp_path / "picture.png", min_frames=5)
    with pytest.raises(BadInput, match="expected a video"):
        read_video(tmp_path / "picture.png")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    for name in ("bomb.png", "large.png"):
        with pytest.raises(BadInput, match="too large"):
            probe_input(tmp_path / name)
    monkeypatch.setattr(image_file, "MAX_PIXELS", 100)
    Image.new("RGB", (11, 10)).save(tmp_path / "small.png")
    with pytest.raises(BadInput, match="got 11 x 10, expected at most 100 pixels"):
        read_image(tmp_path / "small.png")
