"""Sizes in pixels, latent cells and tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import RequestError
from mlx_video.geometry import (
    check_num_frames,
    latent_frames,
    measure,
    pixel_frames,
    round_size,
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
