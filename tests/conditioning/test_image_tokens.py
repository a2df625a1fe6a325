"""Images to image tokens."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.image_tokens import clip_pixels, encode_images
from mlx_video.config import CLIP_PIXEL_MEAN, CLIP_PIXEL_STD
from tests.models.networks import build_image_encoder, relative_error
from tests.parity.golden import fill


def test_a_plain_image_keeps_its_colour_and_is_normalized():
    image = np.broadcast_to(np.float32([-1.0, 0.0, 0.5]), (30, 41, 3)).astype(np.float32)
    expected = (np.array([0.0, 0.5, 0.75]) - CLIP_PIXEL_MEAN) / CLIP_PIXEL_STD
    # A few float32 roundings of values up to 3.
    np.testing.assert_allclose(clip_pixels(image, 14), np.broadcast_to(expected, (14, 14, 3)), atol=2e-6)


def test_an_image_is_squashed_whole_and_not_cropped():
    image = np.zeros((20, 80, 3), np.float32)
    image[:, :40], image[:, 40:] = -1, 1
    pixels = clip_pixels(image, 20)
    assert pixels.shape == (20, 20, 3)
    dark, bright = clip_pixels(image[:, :40], 20), clip_pixels(image[:, 40:], 20)
    np.testing.assert_allclose(pixels[:, :8], dark[:, :8], atol=1e-6)
    np.testing.assert_allclose(pixels[:, 12:], bright[:, 12:], atol=1e-6)


def test_what_the_interpolation_overshoots_is_not_clamped():
    image = np.ones((8, 8, 3), np.float32)
    image[:, 4:] = -1
    unit = clip_pixels(image, 32) * CLIP_PIXEL_STD + CLIP_PIXEL_MEAN
    assert unit.max() > 1.01
    assert unit.min() < -0.01


def test_tokens_of_images_of_any_size_follow_one_another():
    encoder = build_image_encoder()
    images = [fill((37, 53, 3), 71), fill((20, 90, 3), 72)]
    tokens = encode_images(encoder, images)
    assert tokens.shape == (2 * 17, 64)
    assert tokens.dtype == mx.float32
    for index, image in enumerate(images):
        # The same sums; only products of other shapes may add in another order.
        found = tokens[17 * index : 17 * (index + 1)]
        assert relative_error(found, encode_images(encoder, [image])) <= 1e-6
