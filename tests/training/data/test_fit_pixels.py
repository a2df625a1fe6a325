"""Frames brought to a size: filters, roundings and crops of musubi-tuner and DiffSynth-Studio."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mlx_video.training.data.fit_pixels import fit_pixels, resize_area
from tests.training.data.clip_files import draw_frames


def test_shrinking_averages_the_pixels_that_a_new_one_covers():
    pixels = draw_frames(1, 12, 8)[0]
    blocks = pixels.reshape(4, 2, 6, 2, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(resize_area(pixels, 4, 6) - blocks).max() <= 0.5


def test_shares_of_pixels_count_by_the_area_that_is_covered():
    # Three pixels become two: each takes one whole and half of the middle one.
    pixels = np.array([[[0], [90], [240]]], np.uint8).repeat(3, axis=2)
    assert resize_area(pixels, 1, 2)[0, :, 0].tolist() == [30, 190]


def test_shrinking_gives_opencvs_numbers():
    pixels = (np.arange(5 * 7 * 3) * 37 % 256).astype(np.uint8).reshape(5, 7, 3)
    # cv2.resize(pixels, (4, 3), interpolation=cv2.INTER_AREA) of OpenCV 4.
    assert resize_area(pixels, 3, 4).tolist() == [
        [[51, 88, 125], [168, 59, 96], [139, 176, 67], [110, 147, 184]],
        [[66, 103, 140], [183, 73, 110], [154, 191, 81], [124, 161, 198]],
        [[80, 117, 154], [109, 88, 125], [168, 117, 96], [139, 176, 125]],
    ]


def test_musubi_enlarges_with_lanczos_and_crops_the_middle():
    pixels = draw_frames(1, 20, 10)[0]
    # Scale 3.2 by the height: 64x32, of which 8 columns go on each side.
    large = np.asarray(Image.fromarray(pixels).resize((64, 32), Image.Resampling.LANCZOS))
    assert np.array_equal(fit_pixels(pixels, 48, 32, "musubi"), large[:, 8:56])


def test_musubi_shrinks_with_area_averages():
    pixels = draw_frames(1, 64, 32)[0]
    assert np.array_equal(fit_pixels(pixels, 16, 16, "musubi"), resize_area(pixels, 16, 32)[:, 8:24])


def test_diffsynth_takes_pillows_bilinear_filter_and_rounds_crops_to_even():
    pixels = draw_frames(1, 37, 16)[0]
    # Scale 2: 74x32 to 48 columns cuts 13 on the left; of 75 it would be round(13.5) = 14.
    large = np.asarray(Image.fromarray(pixels).resize((74, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(fit_pixels(pixels, 48, 32, "diffsynth"), large[:, 13:61])
    odd = draw_frames(1, 75, 32)[0]
    assert np.array_equal(fit_pixels(odd, 48, 32, "diffsynth"), odd[:, 14:62])


def test_frames_of_the_size_stay_as_they_are():
    pixels = draw_frames(1)[0]
    for fit in ("musubi", "diffsynth"):
        assert fit_pixels(pixels, 32, 16, fit) is pixels
