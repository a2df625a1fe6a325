"""Spacings of the noise levels by ComfyUI's names, and lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.errors import RequestError
from mlx_video.sampling.noise_levels.comfy import beta_quantile
from mlx_video.sampling.noise_levels.listed import (
    looked_up,
    schedule_of_sigmas,
    schedule_of_timesteps,
    warped,
)
from mlx_video.sampling.noise_levels.table import NOISE_LEVELS, SPACINGS, space_levels
from mlx_video.sampling.schedule import build_schedule

# Recorded from ComfyUI at shift 5, five digits.
FOUR = {
    "simple": "1, 0.9375, 0.83333, 0.625",
    "sgm_uniform": "1, 0.93789, 0.83471, 0.62963",
    "normal": "1, 0.90971, 0.71732, 0.02441",
    "ddim_uniform": "0.93812, 0.83444, 0.62749, 0.00992",
    "beta": "1, 0.95903, 0.83389, 0.51815",
    "linear_quadratic": "1, 0.9875, 0.975, 0.725",
    "karras": "1, 0.25563, 0.0469, 0.00498",
    "exponential": "1, 0.17077, 0.02916, 0.00498",
    "kl_optimal": "1, 0.57957, 0.27151, 0.00498",
}
EIGHT = {
    "simple": "1, 0.97222, 0.9375, 0.89286, 0.83333, 0.75, 0.625, 0.41667",
    "sgm_uniform": "1, 0.97238, 0.93789, 0.89362, 0.83471, 0.75248, 0.62963, 0.42624",
    "normal": "1, 0.96792, 0.9264, 0.87055, 0.7914, 0.67051, 0.4631, 0.02441",
    "ddim_uniform": "0.97272, 0.93812, 0.89367, 0.83444, 0.75159, 0.62749, 0.42109, 0.00992",
    "beta": "1, 0.98806, 0.95903, 0.91069, 0.83389, 0.71121, 0.51815, 0.23539",
    "linear_quadratic": "1, 0.99375, 0.9875, 0.98125, 0.975, 0.90938, 0.725, 0.42188",
    "karras": "1, 0.57558, 0.31597, 0.16397, 0.0795, 0.03546, 0.01423, 0.00498",
    "exponential": "1, 0.46885, 0.21982, 0.10306, 0.04832, 0.02266, 0.01062, 0.00498",
    "kl_optimal": "1, 0.79864, 0.63033, 0.48421, 0.35311, 0.23199, 0.117, 0.00498",
}
FOUR_AT_SHIFT_8 = {
    "simple": "1, 0.96, 0.88889, 0.72727",
    "beta": "1, 0.974, 0.88928, 0.63243",
    "sgm_uniform": "1, 0.96041, 0.89045, 0.73348",
    "normal": "1, 0.94183, 0.80377, 0.06021",
}
RECORDED = [
    (name, steps, shift, levels)
    for steps, shift, table in [(4, 5.0, FOUR), (8, 5.0, EIGHT), (4, 8.0, FOUR_AT_SHIFT_8)]
    for name, levels in table.items()
]


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def test_every_spacing_is_recorded():
    assert set(FOUR) == set(EIGHT) == set(NOISE_LEVELS)


@pytest.mark.parametrize(("name", "steps", "shift", "levels"), RECORDED)
def test_levels_are_those_of_comfyui(name, steps, shift, levels):
    schedule = space_levels(name, "euler", steps, shift)
    np.testing.assert_allclose(schedule.sigmas, [*numbers(levels), 0], rtol=0, atol=5.1e-6)
    np.testing.assert_allclose(schedule.timesteps, 1000 * schedule.sigmas[:-1].astype(float), rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(SPACINGS), steps=st.integers(1, 60), shift=st.floats(0.5, 16))
def test_levels_of_any_spacing_fall_to_zero(name, steps, shift):
    schedule = space_levels(name, "euler", steps, shift)
    assert np.all(np.diff(schedule.sigmas) < 0)
    assert schedule.sigmas[-1] == 0
    assert schedule.sigmas[0] <= 1
    if name not in ("ddim_uniform", "beta"):
        assert schedule.steps == steps
        assert schedule.sigmas[0] == pytest.approx(1, abs=1e-6)


def test_normal_without_a_rest_of_noise_takes_one_level_more():
    # At shift 0.005 the last level is below 1e-5 and gives way to 0.
    found = space_levels("normal", "euler", 4, 0.005).sigmas
    lowest = 0.005 * 0.001 / (1 + (0.005 - 1) * 0.001)
    even = np.linspace(1, lowest, 5)[:-1]
    np.testing.assert_allclose(found[:-1], 0.005 * even / (1 + (0.005 - 1) * even), rtol=1e-6)


def test_simple_levels_of_shift_5_are_those_of_lightx2v():
    found = space_levels("simple", "euler", 4, 5.0)
    assert found.sigmas.tolist() == build_schedule("euler", 4, 5.0).sigmas.tolist()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.75, 1.0])
def test_beta_quantiles_are_those_of_the_integral(share):
    """The density, x^-0.4·(1 - x)^-0.4, added up to the quantile; u = x^0.6 smooths its end."""

    def integral(value):
        u = np.linspace(0, value**0.6, 200_001)
        middle = (u[1:] + u[:-1]) / 2
        return np.sum((1 - middle ** (1 / 0.6)) ** -0.4) * (u[1] - u[0]) / 0.6

    half = integral(0.5)
    value = beta_quantile(share)
    found = integral(value) / (2 * half) if value <= 0.5 else 1 - integral(1 - value) / (2 * half)
    assert found == pytest.approx(share, abs=1e-6)


def test_an_unknown_spacing_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'linear'; choose from official, simple"):
        space_levels("linear", "euler", 4, 5.0)


def test_impossible_settings_are_refused():
    with pytest.raises(RequestError, match="steps: 0: must be at least 1"):
        space_levels("simple", "euler", 0, 5.0)
    with pytest.raises(RequestError, match=r"shift: with shift 5 and 1500 steps, .* equal in float32"):
        space_levels("simple", "euler", 1500, 5.0)


# Lists


def test_a_list_of_levels_is_taken_as_it_is():
    schedule = schedule_of_sigmas([1.0, 0.9, 0.25])
    assert schedule.sigmas.tolist() == pytest.approx([1, 0.9, 0.25, 0])
    assert schedule.timesteps.tolist() == pytest.approx([1000, 900, 250])
    assert schedule_of_sigmas([1.0, 0.9, 0.25, 0.0]).sigmas.tolist() == schedule.sigmas.tolist()


def test_a_list_of_timesteps_reaches_the_network_unchanged():
    schedule = schedule_of_timesteps([1000, 757, 522])
    assert schedule.timesteps.tolist() == [1000, 757, 522]
    assert schedule.sigmas.tolist() == pytest.approx([1, 0.757, 0.522, 0])


@pytest.mark.parametrize(
    "values", [(), (0.0,), (1.1, 0.5), (0.5, 0.5), (0.5, 0.9), (0.5, -0.1), (float("nan"),)]
)
def test_other_lists_are_refused(values):
    with pytest.raises(RequestError, match="sigmas: .*: must be numbers that fall from at most 1 to"):
        schedule_of_sigmas(values)
    with pytest.raises(RequestError, match="timesteps: .*: must be numbers that fall from at most 1000"):
        schedule_of_timesteps([1000 * value for value in values])


def test_trained_timesteps_are_looked_up_or_warped():
    found = looked_up([1000, 757, 522], 8.0)
    assert found.sigmas.tolist() == pytest.approx([1, 0.756757, 0.521739, 0], abs=5e-7)
    assert found.timesteps.tolist() == [1000, 757, 522]
    found = warped([1000, 757, 522], 5.0)
    assert found.sigmas.tolist() == pytest.approx([1, 0.939672, 0.845207, 0], abs=5e-7)
    assert found.timesteps.tolist() == pytest.approx([1000, 939.67, 845.21], abs=5e-3)
