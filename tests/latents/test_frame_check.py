"""Frames that a GPU did not really make are refused before anyone writes them."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_video.errors import DeviceError, NonFiniteError
from mlx_video.latents.decode import decode_frames
from mlx_video.latents.frame_check import check_frames
from mlx_video.models.vae import layers as vae_layers
from tests.models.vae.tiny_vae import TINY, build_vae

pytestmark = pytest.mark.slow

LATENTS = mx.random.normal((1, 1, 2, 3, 16), key=mx.random.key(0))
FRAMES = mx.random.normal((4, 16, 24, 3), key=mx.random.key(1))


def test_frames_like_any_others_pass():
    check_frames(FRAMES, LATENTS)
    check_frames(30 * FRAMES, LATENTS)  # darker than black, and not clamped yet
    check_frames(FRAMES[:, :, :1], LATENTS)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_single_value_that_is_no_number_is_an_error(value):
    frames = mx.array(FRAMES)
    frames[2, 3, 4, 1] = value
    with pytest.raises(NonFiniteError, match="1 of 4,608 pixel values.*latents are sound.*check_device"):
        check_frames(frames, LATENTS)


def test_latents_that_are_no_numbers_are_told_from_a_decoder_at_fault():
    with pytest.raises(NonFiniteError, match="96 latent values"):
        check_frames(FRAMES * float("nan"), LATENTS * float("nan"))


def test_one_grey_frame_among_others_is_an_error():
    frames = mx.array(FRAMES)
    frames[3] = mx.array([0.1, 0.2, 0.3])
    with pytest.raises(DeviceError, match="100% of a frame is one colour.*--tiling aggressive"):
        check_frames(frames, LATENTS)


def test_a_frame_grey_but_for_its_border_is_an_error():
    frames = mx.array(FRAMES)
    frames[3, 2:-2, 2:-2] = 0.5
    with pytest.raises(DeviceError, match="one colour"):
        check_frames(frames, LATENTS)


def test_latents_of_one_colour_make_such_frames_rightly():
    check_frames(mx.zeros((1, 16, 24, 3)), mx.ones((1, 1, 2, 3, 16)))


# Frames of 64×64 pixels: borders of a few pixels differ, since beyond them lie zeros.
@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize(("factor", "error"), [(0.0, DeviceError), (float("nan"), NonFiniteError)])
def test_zeros_and_garbage_from_a_convolution_are_errors_whole_and_tiled(monkeypatch, tile, factor, error):
    vae, latents = build_vae(TINY), mx.random.normal((16, 3, 8, 8), key=mx.random.key(2))
    assert len(list(decode_frames(vae, latents, tile=tile))) == 3
    convolve = vae_layers.convolve_doubled
    monkeypatch.setattr(vae_layers, "convolve_doubled", lambda *arrays: factor * convolve(*arrays))
    with pytest.raises(error):
        list(decode_frames(vae, latents, tile=tile))
