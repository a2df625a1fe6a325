"""The CLIP visual tower."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.config import ImageEncoderConfig
from mlx_video.errors import ConfigError
from mlx_video.models.encoders.image_encoder import CLIPImageEncoder, cut_patches
from mlx_video.weights.names.image_encoder_names import image_encoder_tensors, wan_rules
from mlx_video.weights.rules import target_shapes
from tests.models.networks import IMAGE_ENCODER, build_image_encoder, relative_error, run_gpu_code
from tests.parity.golden import fill

PIXELS = mx.array(fill((2, 56, 56, 3), 61))


@pytest.fixture(scope="module")
def encoder():
    return build_image_encoder()


def test_parameters_carry_the_names_and_shapes_of_a_converted_file():
    found = {name: array.shape for name, array in tree_flatten(CLIPImageEncoder(IMAGE_ENCODER).parameters())}
    assert found == target_shapes(image_encoder_tensors(IMAGE_ENCODER), wan_rules(IMAGE_ENCODER))


def test_the_published_sizes_give_257_tokens_of_1280_channels():
    shapes = {
        name: array.shape for name, array in tree_flatten(CLIPImageEncoder(ImageEncoderConfig()).parameters())
    }
    assert shapes["pos_embedding"] == (1, 257, 1280)
    assert shapes["patch_embedding.weight"] == (1280, 588)
    assert "transformer.30.norm1.weight" in shapes
    assert "transformer.31.norm1.weight" not in shapes


def test_patches_run_row_by_row_with_the_colour_slowest_inside():
    pixels = mx.arange(2 * 4 * 3).reshape(1, 2, 4, 3)
    square = mx.concatenate([pixels, pixels + 100], axis=1)
    patches = cut_patches(square, 2)
    assert patches.shape == (1, 4, 12)
    assert patches[0, 0].tolist() == [0, 3, 12, 15, 1, 4, 13, 16, 2, 5, 14, 17]
    assert patches[0, :, 0].tolist() == [0, 6, 100, 106]


def test_images_do_not_see_each_other(encoder):
    alone = mx.concatenate([encoder(PIXELS[:1]), encoder(PIXELS[1:])])
    # The same sums; only products of other shapes may add in another order.
    assert relative_error(encoder(PIXELS), alone) <= 1e-6


def test_every_patch_reaches_the_token_of_the_whole(encoder):
    changed = np.array(PIXELS)
    changed[0, -14:, -14:] *= -1
    difference = np.abs(np.array(encoder(mx.array(changed))[:, 0] - encoder(PIXELS)[:, 0])).max(axis=1)
    assert difference[0] > 1e-3
    assert difference[1] == 0


@pytest.mark.parametrize("device", ["this device", "gpu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float16, 2e-3), (mx.bfloat16, 2e-2)])
def test_half_precision_weights_are_computed_in_float32(encoder, device, dtype, tolerance, monkeypatch):
    if device == "gpu":
        run_gpu_code(monkeypatch)
    half, reference = build_image_encoder(dtype=dtype), build_image_encoder(dtype=dtype)
    reference.set_dtype(mx.float32)
    found = half(PIXELS)
    assert found.dtype == mx.float32
    assert relative_error(found, reference(PIXELS)) <= 1e-5
    # Weights rounded to 11 or 8 bits, nothing else.
    assert relative_error(found, encoder(PIXELS)) <= tolerance


def test_images_of_another_size_are_refused(encoder):
    with pytest.raises(ValueError, match=r"\(1, 56, 28, 3\).*\[n, 56, 56, 3\]"):
        encoder(PIXELS[:1, :, :28])


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ConfigError, match="width 64 is no multiple of num_heads 5"):
        replace(IMAGE_ENCODER, num_heads=5)
