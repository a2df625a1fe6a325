"""The networks reproduce recorded results of the official code, without torch."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np

from mlx_video.models.block_context import Pass
from mlx_video.models.token_layout import video_layout
from tests.models.networks import (
    CONCAT_LATENTS,
    FIRST_AND_LAST_FRAME,
    IMAGE_TO_VIDEO,
    ONE_IMAGE,
    TIMESTEP,
    TRANSFORMER,
    TWO_IMAGES,
    at,
    build_image_encoder,
    build_text_encoder,
    build_transformer,
    forward,
)
from tests.parity.golden import Golden, assert_golden, fill, mix

# Recorded from Wan2.1 and wan22 wan/modules/model.py (WanModel), t5.py (T5Encoder) and clip.py
# (VisionTransformer), float32, CPU, exact softmax.
TEXT_TO_VIDEO = Golden(
    1152, 5.7278555e-2, 8.3882795e-1, (0.2629644, 0.7931497, 2.182376, 0.6568925, 1.425786, 1.225245)
)
IMAGE_TO_VIDEO_WAN22 = Golden(
    1152, 6.5565408e-2, 8.6870736e-1, (0.1533285, -0.1745427, -1.060943, -1.919369, 1.275794, 2.224455)
)
PER_TOKEN_TIMESTEPS = Golden(
    3456, 3.0864193e-2, 8.4308410e-1, (-1.518592, -0.1672573, 0.7160995, -0.2973965, 0.6153052, 1.057584)
)
TEXT_ENCODER = Golden(
    1280, 9.4446975e-2, 8.2499731e-1, (-1.080005, -0.05563949, 2.234197, 0.8452262, 0.1046536, 0.3637216)
)
IMAGE_TO_VIDEO_WAN21 = Golden(
    1152, -4.8433004e-2, 8.4580452e-1, (-1.996342, 1.644915, -2.135594, 1.366798, -0.5872188, 0.02863504)
)
FIRST_AND_LAST_FRAME_TO_VIDEO = Golden(
    1152, 2.6747607e-2, 7.7450464e-1, (0.7139739, 1.052506, -0.0001582168, 0.6570462, -1.475187, 0.265725)
)
IMAGE_ENCODER = Golden(
    1088,
    -8.8517693e-2,
    1.0302181,
    (0.2667117, 0.04109114, -0.06478122, -0.08401611, 0.1094823, 0.8920541),
)
IDS = [160, 14, 297, 232, 131, 61, 95, 54, 67, 97, 287, 125, 116, 192, 186, 269, 77, 85, 9, 156]


def test_filler_gives_the_published_numbers():
    start = np.arange(3, dtype=np.uint64) + np.uint64(0x9E3779B9)
    assert mix(start).tolist() == [2462723854, 2527132011, 3024231355]
    np.testing.assert_array_equal(fill((3,), 1), np.float32([0.14679515, 0.17678754, 0.40826747]))


def test_text_to_video_transformer_gives_the_recorded_velocity():
    assert_golden(forward(build_transformer()), TEXT_TO_VIDEO)


def test_transformer_with_concatenated_channels_gives_the_recorded_velocity():
    transformer = build_transformer(replace(TRANSFORMER, in_dim=36, model_type="i2v"))
    extra = mx.array(fill((20, 3, 4, 6), 1003, 1.7))
    assert_golden(forward(transformer, concat_latents=extra), IMAGE_TO_VIDEO_WAN22)


def test_transformer_that_reads_an_image_gives_the_recorded_velocity():
    velocity = forward(
        build_transformer(IMAGE_TO_VIDEO), image_tokens=ONE_IMAGE, concat_latents=mx.array(CONCAT_LATENTS)
    )
    assert_golden(velocity, IMAGE_TO_VIDEO_WAN21)


def test_transformer_that_reads_two_images_gives_the_recorded_velocity():
    velocity = forward(
        build_transformer(FIRST_AND_LAST_FRAME),
        image_tokens=TWO_IMAGES,
        concat_latents=mx.array(CONCAT_LATENTS),
    )
    assert_golden(velocity, FIRST_AND_LAST_FRAME_TO_VIDEO)


def test_timesteps_per_token_give_the_recorded_velocity():
    transformer = build_transformer(replace(TRANSFORMER, in_dim=48, out_dim=48, model_type="ti2v"))
    latents = mx.array(fill((48, 3, 4, 6), 1002, 1.7))
    text = transformer.project_text(mx.array(fill((9, 32), 1001)))
    layout = video_layout((3, 2, 3), given_frames=1)
    (velocity,) = transformer.predict(latents, at(TIMESTEP), [Pass(text)], layout=layout)
    assert_golden(np.array(velocity), PER_TOKEN_TIMESTEPS)


def test_text_encoder_gives_the_recorded_features():
    assert_golden(np.array(build_text_encoder()(mx.array(IDS))), TEXT_ENCODER)


def test_image_encoder_gives_the_recorded_features():
    pixels = mx.array(fill((1, 3, 56, 56), 1006).transpose(0, 2, 3, 1))
    assert_golden(np.array(build_image_encoder()(pixels)), IMAGE_ENCODER)
