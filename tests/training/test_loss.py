"""What an example is trained on: its noise, its level, its captions, and what it is told."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.latent_frames import LatentFrames
from mlx_video.errors import DatasetError
from mlx_video.training.loss import NoiseDrawing, velocity_loss
from mlx_video.training.noise_levels import NoiseLevels
from mlx_video.training.velocity import predict_velocity
from tests.training.examples import KINDS
from tests.training.small_training import DrawnExamples


def test_draws_are_a_function_of_seed_position_and_place():
    examples = DrawnExamples(count=1, size=2)
    first, second = NoiseDrawing(3, NoiseLevels()).draw_batch(examples, 5)
    again, _ = NoiseDrawing(3, NoiseLevels()).draw_batch(examples, 5)
    assert mx.array_equal(first.noisy, again.noisy)
    others = [second, NoiseDrawing(3, NoiseLevels()).draw_batch(examples, 6)[0]]
    others.append(NoiseDrawing(4, NoiseLevels()).draw_batch(examples, 5)[0])
    for other in others:
        assert other.level != first.level
        assert not mx.array_equal(other.target, first.target)


def test_noise_is_mixed_in_by_the_level():
    examples = DrawnExamples()
    (one,) = NoiseDrawing(0, NoiseLevels()).draw_batch(examples, 1)
    latents = examples.draw(1).latents
    noise = one.target + latents
    assert mx.allclose(one.noisy, one.level * noise + (1 - one.level) * latents, atol=1e-6)
    assert one.timestep == 1000 * one.level
    assert abs(noise.mean().item()) < 0.15
    assert noise.var().item() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_captions_are_dropped_as_often_as_asked(share: float):
    examples = DrawnExamples()
    drawing = NoiseDrawing(0, NoiseLevels(), share)
    drawn = [drawing.draw_batch(examples, position)[0] for position in range(200)]
    dropped = [mx.array_equal(one.conditioning.context, examples.empty_context) for one in drawn]
    assert np.mean(dropped) == pytest.approx(share, abs=0.1)


LEVELS = {
    "uniform": (NoiseLevels("uniform"), 0.5),
    "sigmoid": (NoiseLevels("sigmoid"), 0.5),
    "shift 3": (NoiseLevels("shift", shift=3.0), 0.75),
    "shift 1": (NoiseLevels("shift", shift=1.0), 0.5),
    "logit-normal": (NoiseLevels("logit_normal", mean=1.0), 0.731),
    "high noise": (NoiseLevels("uniform", lowest=0.875), 0.9375),
    "low noise": (NoiseLevels("shift", shift=3.0, highest=0.5), 0.375),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels_have_their_median_and_stay_within_their_limits(name: str):
    levels, median = LEVELS[name]
    rng = np.random.default_rng(0)
    drawn = [levels.draw(rng) for _ in range(4000)]
    assert levels.lowest <= min(drawn) < max(drawn) <= levels.highest
    assert np.median(drawn) == pytest.approx(median, abs=0.02)


def test_a_wider_normal_number_spreads_the_levels():
    spread = [
        np.std([NoiseLevels("sigmoid", deviation=deviation).draw(rng) for _ in range(2000)])
        for deviation, rng in ((0.5, np.random.default_rng(0)), (2.0, np.random.default_rng(0)))
    ]
    assert spread[0] < 0.6 * spread[1]


def test_the_bell_counts_middle_levels_most_and_ends_not_at_all():
    bell = NoiseLevels(weighting="bell")
    assert bell.weight(0.5) > bell.weight(0.8) > bell.weight(1.0) == pytest.approx(0, abs=1e-12)
    shifted = [5 * u / (1 + 4 * u) for u in (np.arange(1000) + 1) / 1000]
    assert np.mean([bell.weight(level) for level in shifted]) == pytest.approx(1)
    assert NoiseLevels().weight(0.3) == 1


def test_a_first_frame_that_is_given_does_not_count():
    kind = KINDS["text and image to video"]
    one = kind.example()
    velocity = one.target + mx.array([1.0, 0.0, 0.0])[None, :, None, None]
    assert velocity_loss(velocity, one).item() == 0
    assert mx.array_equal(one.noisy[:, :1], one.conditioning.first_frames)
    free = replace(one, conditioning=replace(one.conditioning, first_frames=None))
    assert velocity_loss(velocity, free).item() == pytest.approx(1 / 3)
    assert velocity_loss(velocity, replace(free, weight=2.0)).item() == pytest.approx(2 / 3)


def test_one_frame_among_pictures_lies_where_it_is_said_to():
    kind = KINDS["text to video"]
    transformer, one = kind.build(), kind.example()
    velocities = [
        predict_velocity(
            transformer, replace(one, conditioning=replace(one.conditioning, frames=frames)).question
        )
        for frames in (
            LatentFrames(),
            LatentFrames(times=(0, 1, 2), kept=1),
            LatentFrames(times=(0, 1, 9), kept=2),
        )
    ]
    assert mx.allclose(velocities[0], velocities[1], atol=1e-6)
    assert not mx.allclose(velocities[0], velocities[2], atol=1e-3)


def test_pictures_before_the_frames_are_refused():
    kind = KINDS["text to video"]
    one = kind.example()
    one = replace(one, conditioning=replace(one.conditioning, frames=LatentFrames(leading=1)))
    with pytest.raises(DatasetError, match="Leave vace_reference_image out"):
        predict_velocity(kind.build(), one.question)
