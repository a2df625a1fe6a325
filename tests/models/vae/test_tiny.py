"""The tiny decoder: recorded numbers of its authors' code, streams, and its cheaper forms."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import TinyVAEConfig
from mlx_video.latents.tiny_decode import decode_tiny
from mlx_video.models.vae.stream import StreamState
from mlx_video.models.vae.tiny import PREVIEW, WHOLE, TinyDecoder, TinyForm
from mlx_video.weights.names.tiny_vae_names import tiny_vae_tensors
from tests.models.vae.tiny_decoder import SMALL_21, SMALL_22, build, encoder_tensors, random_weights

# Float32 against recorded float64, in pixels between 0 and 1.
RECORDED = 1e-5
SMALL = pytest.mark.parametrize("config", [SMALL_21, SMALL_22], ids=["16 channels", "48 channels"])


def wave(shape: tuple[int, ...], phase: float, size: float) -> np.ndarray:
    index = np.arange(np.prod(shape), dtype=np.float64)
    return (size * np.cos(phase + 0.61 * index + 0.00023 * index**2)).reshape(shape)


def wave_weights(config: TinyVAEConfig) -> dict[str, np.ndarray]:
    """Weights by a formula, of both halves: a tensor's place among all names counts."""
    shapes, weights = {**tiny_vae_tensors(config), **encoder_tensors(config)}, {}
    for number, name in enumerate(sorted(shapes), 1):
        size = np.prod(shapes[name])
        index = np.arange(size, dtype=np.float64)
        wave = np.cos(1.7 * number + 0.37 * index + 0.00011 * index**2)
        scale = 0.1 if name.endswith("bias") else 1.4 / np.sqrt(size / shapes[name][0])
        weights[name] = (scale * wave).astype(np.float32).reshape(shapes[name])
    return weights


def decode(decoder: TinyDecoder, latents: np.ndarray, form: TinyForm = WHOLE) -> np.ndarray:
    """Frames [F, h, w, 3] in [-1, 1] of latents [C, T, H, W]."""
    return np.concatenate([np.array(chunk) for chunk in decode_tiny(decoder, mx.array(latents), form)])


# Recorded from madebyollin/taehv taehv.py in float64, with both halves filled by the formula.
@pytest.mark.parametrize(
    ("config", "mean", "spread", "values"),
    [
        (
            TinyVAEConfig(),
            0.094390,
            0.093800,
            {(0, 0, 0, 0): 0.096692, (8, 31, 3, 2): 0.097869, (1, 5, 7, 1): 0.0},
        ),
        (
            TinyVAEConfig(z_dim=48, patch_size=2),
            0.030902,
            0.065291,
            {(0, 0, 0, 0): 0.117640, (1, 5, 7, 1): 0.011045},
        ),
    ],
    ids=["16 channels", "48 channels"],
)
def test_it_gives_the_recorded_frames(config: TinyVAEConfig, mean: float, spread: float, values: dict):
    weights = wave_weights(config)
    assert len(weights) == 128
    latents = wave((3, config.z_dim, 4, 6), 0.5, 1.2).transpose(1, 0, 2, 3).astype(np.float32)
    frames = (decode(build(config, weights), latents) + 1) / 2
    assert frames.shape == (9, 32 * config.patch_size, 48 * config.patch_size, 3)
    assert (frames.mean(), frames.std()) == pytest.approx((mean, spread), abs=RECORDED)
    assert {place: frames[place] for place in values} == pytest.approx(values, abs=RECORDED)


@SMALL
def test_a_stream_gives_what_the_whole_clip_gives(config: TinyVAEConfig):
    decoder = build(config, random_weights(config))
    latents = np.random.default_rng(1).standard_normal((config.z_dim, 5, 3, 4)).astype(np.float32)
    at_once = list(decoder.decode(mx.array(latents.transpose(1, 2, 3, 0)[None]), StreamState()))
    whole = np.clip(np.array(mx.concatenate(at_once, axis=1))[0, WHOLE.frames_to_trim :] * 2 - 1, -1, 1)
    np.testing.assert_allclose(decode(decoder, latents), whole, atol=RECORDED)


def test_what_a_stream_keeps_does_not_grow_with_the_clip():
    decoder, state, sizes = build(SMALL_21, random_weights(SMALL_21)), StreamState(), []
    for _ in range(3):
        list(decoder.decode(mx.ones((1, 1, 3, 4, 16)), state))
        sizes.append(state.nbytes())
    widths = SMALL_21.widths
    cells = 3 * 4 * (widths[0] + 4 * widths[1] + 16 * widths[2])
    assert sizes == [3 * 4 * cells] * 3


@SMALL
def test_a_preview_is_one_frame_of_half_the_size_for_each_latent_frame(config: TinyVAEConfig):
    latents = np.random.default_rng(2).standard_normal((config.z_dim, 4, 3, 5)).astype(np.float32)
    frames = decode(build(config, random_weights(config)), latents, PREVIEW)
    assert frames.shape == (4, 3 * 4 * config.patch_size, 5 * 4 * config.patch_size, 3)


def test_latents_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"\[48, 1, 4, 4\], expected \[16, T, H, W\]"):
        decode_tiny(TinyDecoder(SMALL_21), mx.zeros((48, 1, 4, 4)))
