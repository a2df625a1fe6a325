"""Noise against torch.randn on the CPU."""

import math

import numpy as np
import pytest

from mlx_video.request import GenerateRequest
from mlx_video.sampling.noise import draw_noise

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SEEDS = [0, 1, 7, 42, 123456, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 3, 2**63 - 1, 2**64 - 1]
# torch's x86 code rounds the angle 2·pi·u to float32 twice, which we follow; the rest is approximated within
# one unit in the last place, 4.8e-7 for the largest values. Its code for other processors rounds the angle
# once, and so differs from itself on x86 by up to 2.4e-6.
IS_X86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
TOLERANCE = 1e-6 if IS_X86 else 3e-6


def assert_same_as_torch(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator("cpu").manual_seed(seed)
    expected = torch.randn(shape, generator=generator, dtype=torch.float32).numpy()
    noise = np.array(draw_noise("torch", seed, shape))
    np.testing.assert_allclose(noise, expected, rtol=0, atol=TOLERANCE, err_msg=f"seed {seed}, shape {shape}")


@pytest.mark.parametrize("seed", SEEDS)
def test_every_size_up_to_a_hundred_agrees(seed):
    for count in range(1, 101):
        assert_same_as_torch(seed, (count,))


@pytest.mark.parametrize(
    "shape", [(16, 1, 6, 10), (16, 3, 8, 12), (16, 5, 9, 7), (3, 5, 7, 11), (48, 3, 4, 6)]
)
def test_latent_shapes_agree(shape):
    for seed in SEEDS:
        assert_same_as_torch(seed, shape)


@pytest.mark.parametrize("seed", [2**63, 2**63 + 12345, 2**64 - 2, 2**64 - 1, -2, -7, -(2**32), -(2**63)])
def test_seeds_beyond_63_bits_and_below_zero_draw_what_torch_draws(seed):
    """The seed as a user gives it, on both sides: torch counts negative numbers from 2**64."""
    generator = torch.Generator("cpu").manual_seed(seed)
    expected = torch.randn((16, 2, 4, 6), generator=generator, dtype=torch.float32).numpy()
    noise = draw_noise("torch", GenerateRequest("a cat", seed=seed).seed, (16, 2, 4, 6))
    np.testing.assert_allclose(np.array(noise), expected, rtol=0, atol=TOLERANCE)


def test_two_million_numbers_agree_far_into_the_tails():
    shape = (16, 21, 60, 104)
    for seed in (0, 42):
        assert_same_as_torch(seed, shape)
    # The largest of them come from uniform numbers near zero, where an approximated logarithm would show.
    assert np.abs(np.array(draw_noise("torch", 42, shape))).max() > 4.8


def test_a_large_size_that_is_no_multiple_of_sixteen_agrees():
    for count in (999_983, 2**20 + 1, 2**20 + 15):
        assert_same_as_torch(11, (count,))


@pytest.mark.parametrize(
    ("seed", "place", "value"),
    [
        (1753191, 6, 0.0),
        (5528393, 0, 0.0),
        (448413, 4, 2**-24),
        (6899148, 6, 2**-24),
        (6500655, 6, 1 - 2**-24),
        (9063759, 3, 1 - 2**-24),
    ],
)
def test_uniform_numbers_at_the_ends_of_their_range_agree(seed, place, value):
    """Seeds found by search: the radius at `place` is 0, 3.5e-4 or, the largest there is, 5.77."""
    assert torch.rand(8, generator=torch.Generator("cpu").manual_seed(seed))[place].item() == value
    noise = np.array(draw_noise("torch", seed, (16,)))
    radius = math.hypot(noise[place], noise[place + 8])
    assert radius == pytest.approx(math.sqrt(-2 * math.log(1 - value)), rel=1e-5, abs=1e-12)
    assert_same_as_torch(seed, (16,))
