"""Sampling starts from noise, or from a video under noise; frames before the video leave its noise alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import RequestError
from mlx_video.sampling.noise import open_noise
from mlx_video.sampling.schedule import build_schedule
from mlx_video.sampling.start import add_start_noise, draw_start_noise

SHAPE = (16, 3, 4, 6)
# Shift 5, 10 steps, strength 0.7, of DiffSynth-Studio's Euler.
RECORDED = (
    0.921053, 0.894886, 0.864197, 0.827703, 0.783582, 0.729167, 0.660377, 0.570652, 0.448718, 0.273438,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["torch", "mlx"])
def test_leading_frames_leave_the_noise_of_the_video_alone(kind):
    alone, led = (draw_start_noise(open_noise(kind, 7), SHAPE, count) for count in (0, 2))
    assert led.shape == (16, 5, 4, 6)
    assert mx.array_equal(led[:, 2:], alone)
    assert mx.std(led[:, :2]).item() == pytest.approx(1, abs=0.1)
    assert not mx.array_equal(led[:, :1], led[:, 1:2])


def test_levels_of_a_strength_are_the_recorded_ones():
    schedule = build_schedule("euler", 10, 5.0, 0.7)
    np.testing.assert_allclose(schedule.sigmas, [*RECORDED, 0], rtol=0, atol=6e-7)
    np.testing.assert_allclose(schedule.timesteps, 1000 * np.array(RECORDED), rtol=0, atol=6e-4)


@pytest.mark.parametrize("solver", ["unipc", "dpm++"])
def test_other_solvers_take_the_same_levels_and_whole_timesteps(solver):
    schedule = build_schedule(solver, 10, 5.0, 0.7)
    np.testing.assert_allclose(schedule.sigmas, [*RECORDED, 0], rtol=0, atol=6e-7)
    assert schedule.timesteps.tolist() == [int(1000 * sigma) for sigma in RECORDED]


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_full_strength_is_the_ordinary_schedule(solver):
    ordinary, full = build_schedule(solver, 10, 5.0), build_schedule(solver, 10, 5.0, 1.0)
    np.testing.assert_array_equal(ordinary.sigmas, full.sigmas)


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(RequestError, match="denoising_strength: .* must be above 0 and at most 1"):
        build_schedule("unipc", 10, 5.0, strength)


def test_a_video_is_mixed_with_noise_at_the_first_level():
    latents, noise = mx.full(SHAPE, 2.0), mx.full(SHAPE, -1.0)
    assert mx.allclose(add_start_noise(latents, noise, 0.25), mx.full(SHAPE, 1.25)).item()
    assert mx.array_equal(add_start_noise(latents, noise, 1.0), noise)
    with pytest.raises(ValueError, match="latents .* under noise"):
        add_start_noise(latents, noise[:, :2], 0.25)
