"""Sizes in pixels, latent cells and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import RequestError
from mlx_video.geometry import (
    best_output_size,
    check_num_frames,
    latent_frames,
    measure,
    pixel_frames,
    round_size,
    size_for_area,
    size_multiple,
)

STRIDE, PATCH = (4, 8, 8), (1, 2, 2)
sides = st.integers(1, 4000)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (5, 2), (9, 3), (17, 5), (81, 21), (121, 31)])
def test_latent_frames_match_the_official_counts(frames: int, latents: int):
    assert latent_frames(frames) == latents
    assert pixel_frames(latents) == frames


@pytest.mark.parametrize(
    ("width", "height", "frames", "latent_shape", "tokens"),
    [
        (832, 480, 81, (16, 21, 60, 104), 32760),
        (1280, 720, 81, (16, 21, 90, 160), 75600),
        (64, 64, 17, (16, 5, 8, 8), 80),
    ],
)
def test_published_sizes_have_the_published_latents_and_tokens(width, height, frames, latent_shape, tokens):
    geometry = measure(width, height, frames, z_dim=16, stride=STRIDE, patch_size=PATCH)
    assert geometry.latent_shape == latent_shape
    assert geometry.num_tokens == tokens


def test_a_decoder_that_doubles_the_size_changes_the_results_size_alone():
    usual, larger = (
        measure(832, 480, 81, z_dim=16, stride=STRIDE, patch_size=PATCH, output_scale=scale)
        for scale in (1, 2)
    )
    assert (larger.width, larger.grid, larger.latent_shape) == (832, usual.grid, usual.latent_shape)
    assert (usual.output_size, larger.output_size) == ((832, 480), (1664, 960))


@pytest.mark.parametrize(("frames", "nearest"), [(80, "77 or 81"), (2, "1 or 5"), (82, "81 or 85")])
def test_a_wrong_frame_count_is_refused_with_the_two_nearest(frames: int, nearest: str):
    with pytest.raises(RequestError, match=f"{frames}: must be 4n\\+1.*Nearest: {nearest}"):
        check_num_frames(frames)


def test_no_frames_at_all_are_refused():
    with pytest.raises(RequestError, match="at least 1 frame"):
        check_num_frames(0)


@given(sides, sides)
@settings(deadline=None)
def test_a_rounded_size_is_allowed_and_as_near_as_can_be(width: int, height: int):
    step_w, step_h = size_multiple(STRIDE, PATCH)
    rounded = round_size(width, height, STRIDE, PATCH)
    for value, result, step in zip((width, height), rounded, (step_w, step_h), strict=True):
        assert result % step == 0
        assert result >= step
        assert abs(result - value) <= step / 2 or result == step
    assert round_size(*rounded, STRIDE, PATCH) == rounded


def test_a_size_of_nothing_is_refused():
    with pytest.raises(RequestError, match="height: 0: must be a positive number of pixels"):
        round_size(64, 0, STRIDE, PATCH)


def test_measuring_a_size_that_was_not_rounded_is_a_programming_error():
    with pytest.raises(ValueError, match="830x480 is no multiple of 16x16"):
        measure(830, 480, 81, z_dim=16, stride=STRIDE, patch_size=PATCH)


# Recorded from the official arithmetic: image (width, height) within an area → video (width, height).
@pytest.mark.parametrize(
    ("area", "image", "video"),
    [
        (399360, (832, 480), (832, 464)),  # the root is 479.99999999999994
        (399360, (480, 832), (480, 832)),
        (399360, (1280, 720), (832, 464)),
        (399360, (1024, 1024), (624, 624)),
        (399360, (640, 480), (720, 544)),
        (921600, (1280, 720), (1280, 720)),
        (921600, (832, 480), (1248, 720)),
        (921600, (1024, 1024), (960, 960)),
        (921600, (1000, 562), (1280, 704)),
        (64 * 96, (100, 62), (96, 48)),
        (32 * 48, (100, 62), (48, 16)),
    ],
)
def test_a_video_takes_the_shape_of_its_image_within_an_area(area, image, video):
    assert size_for_area(image[1], image[0], area) == video


@pytest.mark.parametrize(
    ("area", "image", "video"),
    [
        (901120, (1280, 704), (1280, 704)),
        (901120, (1280, 720), (1248, 704)),
        (901120, (1920, 1080), (1248, 704)),
        (901120, (832, 480), (1248, 704)),
        (901120, (1024, 1024), (960, 928)),
        (901120, (640, 480), (1088, 800)),
        (64 * 128, (100, 62), (96, 64)),
    ],
)
def test_the_best_size_is_the_official_one(area, image, video):
    assert best_output_size(image[1], image[0], area) == video


@given(sides, sides, st.integers(64 * 64, 2000 * 2000))
@settings(deadline=None, max_examples=50)
def test_sizes_for_an_image_are_multiples_within_the_area(height: int, width: int, area: int):
    for size, step in ((size_for_area(height, width, area), 16), (best_output_size(height, width, area), 32)):
        assert size[0] % step == size[1] % step == 0
        assert size[0] * size[1] <= area


@given(st.integers(200, 2000), st.integers(200, 2000))
@settings(deadline=None, max_examples=25)
def test_an_image_keeps_its_shape_but_for_the_rounding(height: int, width: int):
    for choose, step in ((size_for_area, 16), (best_output_size, 32)):
        out_width, out_height = choose(height, width, 1280 * 720)
        slack = (1 + step / out_width) * (1 + step / out_height)
        assert 1 / slack <= (out_width / out_height) / (width / height) <= slack


@given(st.integers(200, 2000), st.integers(200, 2000))
@settings(deadline=None, max_examples=25)
def test_a_turned_image_gives_a_turned_size_unless_a_rounding_decides(height: int, width: int):
    turned = size_for_area(width, height, 921600)
    # Both sides are rounded down from roots that differ in their last digit only.
    for side, other in zip(size_for_area(height, width, 921600), reversed(turned), strict=True):
        assert abs(side - other) in (0, 16)


@pytest.mark.parametrize("choose", [size_for_area, best_output_size])
@pytest.mark.parametrize("image", [(1, 5000), (5000, 1)])
def test_an_image_far_too_long_for_the_area_leaves_nothing_of_one_side(choose, image):
    assert min(choose(*image, 64 * 64)) == 0
