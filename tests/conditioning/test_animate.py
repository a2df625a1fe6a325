"""What of a video Animate is told to keep, frame by frame and cell by cell."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_video.conditioning.animate import given_frames, keep_channels
from mlx_video.geometry import measure

GEOMETRY = measure(32, 16, 9, z_dim=16, stride=(4, 8, 8), patch_size=(1, 2, 2))
FRAME = (GEOMETRY.height, GEOMETRY.width)


def frame(value: float) -> np.ndarray:
    return np.full((*FRAME, 3), value, np.float32)


def test_without_masks_the_given_frames_are_kept_and_nothing_else():
    kept = np.array(keep_channels(1, None, GEOMETRY))
    assert kept.shape == (4, 3, 2, 4)
    assert (kept[:, 0] == 1).all()
    assert not kept[:, 1:].any()
    # The first frame is alone; four channels of the second latent frame are the four frames behind it.
    assert np.array_equal(np.array(keep_channels(4, None, GEOMETRY))[:, 1, 0, 0], [1, 1, 1, 0])
    assert not np.array(keep_channels(0, None, GEOMETRY)).any()


def test_masks_leave_the_cell_whose_first_pixel_is_black():
    masks = np.zeros((9, *FRAME), bool)
    masks[2, 8, 16] = True  # the first pixel of a cell
    masks[3, 9, 17] = True  # another one, which counts for nothing
    kept = np.array(keep_channels(0, lambda: iter(masks), GEOMETRY))
    # Frame 2 is the second of the four in latent frame 1.
    assert kept[1, 1, 1, 2] == 0
    assert kept.sum() == kept.size - 1


def test_given_frames_are_kept_whole_under_a_mask():
    masks = np.ones((9, *FRAME), bool)
    kept = np.array(keep_channels(5, lambda: iter(masks), GEOMETRY))
    assert (kept[:, :2] == 1).all()
    assert not kept[:, 2].any()


@pytest.mark.parametrize("has_background", [False, True])
def test_a_part_sees_what_is_before_it_and_then_the_background_or_grey(has_background: bool):
    pixels = np.full((9, *FRAME, 3), 255, np.uint8)
    background = (lambda: iter(pixels)) if has_background else None
    seen = [*given_frames(iter([frame(-0.5), frame(0.25)]), background, GEOMETRY)]
    assert [float(each[0, 0, 0]) for each in seen] == [-0.5, 0.25, *[1.0 if has_background else 0.0] * 7]
