import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.sampling.guidance import NEGATIVE, POSITIVE, ClassifierFreeGuidance
from tests.models.networks import at

LATENTS = mx.zeros((2, 3))


def full(value, dtype=mx.float32):
    return mx.full(LATENTS.shape, value, dtype=dtype)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 1.0), (0.5, 2.0), (5.0, 11.0), (7.5, 16.0)])
def test_guidance_goes_from_the_negative_through_the_positive(scale, expected):
    velocity = ClassifierFreeGuidance(scale).combine(at(), LATENTS, [full(3.0), full(1.0)], {})
    assert np.array(velocity).tolist() == np.full((2, 3), expected).tolist()


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(0, 100).filter(lambda scale: scale != 1), seed=st.integers(0, 99))
def test_equal_predictions_are_left_as_they_are(scale, seed):
    prediction = mx.random.normal((4, 4), key=mx.random.key(seed))
    velocity = ClassifierFreeGuidance(scale).combine(at(), LATENTS, [prediction, prediction], {})
    assert mx.array_equal(velocity, prediction).item()


def test_scale_one_asks_for_the_prompt_alone():
    guidance = ClassifierFreeGuidance(1.0)
    assert guidance.branches(at()) == guidance.all_branches == (POSITIVE,)
    assert guidance.prompts == {"positive"}
    assert mx.array_equal(guidance.combine(at(), LATENTS, [full(3.0)], {}), full(3.0)).item()


def test_any_other_scale_asks_for_both_prompts_positive_first():
    guidance = ClassifierFreeGuidance(1.5)
    assert guidance.branches(at()) == guidance.all_branches == (POSITIVE, NEGATIVE)
    assert guidance.prompts == {"positive", "negative"}


def test_half_precision_predictions_are_combined_in_float32():
    predictions = [full(1.0078125, mx.bfloat16), full(1.0, mx.bfloat16)]
    velocity = ClassifierFreeGuidance(1.1).combine(at(), LATENTS, predictions, {})
    assert velocity.dtype == mx.float32
    assert velocity[0, 0].item() == pytest.approx(1 + 1.1 * 0.0078125, abs=1e-7)
