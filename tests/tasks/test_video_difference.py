"""Where two videos differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cosmos_core.errors import BadInput
from tasks.video_difference import compare_frames


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 255, (4, 6, 8, 3), dtype=np.uint8)


def test_equal_frames_have_no_difference(frames):
    found = compare_frames(frames, frames.copy())
    assert (found.num_frames, found.num_different_frames, found.psnr_db, found.max_error) == (4, 0, None, 0)
    assert (found.first_frame, found.first_pixel, found.expected_rgb, found.got_rgb) == (None, None, None, None)


def test_the_first_frame_and_pixel_are_named_in_reading_order(frames):
    other = frames.copy()
    other[2, 3, 5] = (1, 2, 3)
    other[2, 4, 1] += 1
    other[3] = 0
    found = compare_frames(frames, other)
    assert (found.num_different_frames, found.first_frame, found.first_pixel) == (2, 2, (5, 3))
    assert found.got_rgb == (1, 2, 3)
    assert found.expected_rgb == tuple(int(value) for value in frames[2, 3, 5])


def test_psnr_is_that_of_the_mean_squared_error(frames):
    other = np.where(frames > 100, frames - 10, frames + 10).astype(np.uint8)
    found = compare_frames(frames, other)
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / 100))
    assert found.max_error == 10


def test_videos_of_different_sizes_cannot_be_compared(frames):
    with pytest.raises(BadInput, match="3 frames of 8 x 6, expected 4 frames of 8 x 6"):
        compare_frames(frames, frames[:3])
