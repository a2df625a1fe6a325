import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.sampling.guidance import guided, guided_together


def constant(value, dtype=mx.float32):
    return lambda latents, step, timestep: mx.full(latents.shape, value, dtype=dtype)


LATENTS = mx.zeros((2, 3))


@pytest.mark.parametrize(("guide_scale", "expected"), [(0.0, 1.0), (0.5, 2.0), (5.0, 11.0), (7.5, 16.0)])
def test_guidance_goes_from_the_negative_through_the_positive(guide_scale, expected):
    velocity = guided(constant(3.0), constant(1.0), guide_scale)
    assert np.array(velocity(LATENTS, 0, 999.0)).tolist() == np.full((2, 3), expected).tolist()


@settings(deadline=None, max_examples=25)
@given(guide_scale=st.floats(0, 100), seed=st.integers(0, 99))
def test_equal_predictions_are_left_as_they_are(guide_scale, seed):
    prediction = mx.random.normal((4, 4), key=mx.random.key(seed))
    velocity = guided(lambda *_: prediction, lambda *_: prediction, guide_scale)
    assert mx.array_equal(velocity(LATENTS, 0, 999.0), prediction).item()


def test_scale_one_makes_no_negative_call():
    def forbidden(latents, step, timestep):
        raise AssertionError("the negative pass ran")

    prediction = guided(constant(3.0), forbidden, 1.0)(LATENTS, 0, 999.0)
    assert mx.array_equal(prediction, mx.full((2, 3), 3.0)).item()


def test_scale_one_needs_no_negative_prediction():
    assert guided(constant(3.0))(LATENTS, 0, 999.0).shape == (2, 3)


def test_any_other_scale_needs_a_negative_prediction():
    with pytest.raises(ValueError, match=r"guide scale 1\.5 needs a negative prediction"):
        guided(constant(3.0), None, 1.5)


def test_both_predictions_see_the_same_latents_step_and_timestep_positive_first():
    calls = []

    def recording(name):
        def predict(latents, step, timestep):
            calls.append((name, latents is LATENTS, step, timestep))
            return latents

        return predict

    guided(recording("positive"), recording("negative"), 2.0)(LATENTS, 3, 833.0)
    assert calls == [("positive", True, 3, 833.0), ("negative", True, 3, 833.0)]


def test_the_positive_pass_is_finished_before_the_negative_one_begins():
    """Else the activations of both would be in memory at once."""
    big = mx.zeros((4, 1024, 1024))  # 16 MB
    mx.eval(big)

    def predict(latents, step, timestep):
        return mx.sum(mx.exp(mx.sin(big) + 1.0), axis=(1, 2))

    def measured(velocity):
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(velocity(LATENTS, 0, 999.0))
        return mx.get_peak_memory()

    alone, both = measured(predict), measured(guided(predict, predict, 2.0))
    assert both < alone + big.nbytes / 2


def test_half_precision_predictions_are_combined_in_float32():
    velocity = guided(constant(1.0078125, mx.bfloat16), constant(1.0, mx.bfloat16), 1.1)(LATENTS, 0, 999.0)
    assert velocity.dtype == mx.float32
    assert velocity[0, 0].item() == pytest.approx(1 + 1.1 * 0.0078125, abs=1e-7)


@settings(deadline=None, max_examples=25)
@given(guide_scale=st.floats(0, 100).filter(lambda scale: scale != 1), seed=st.integers(0, 99))
def test_two_predictions_made_together_are_joined_as_two_made_apart(guide_scale, seed):
    positive, negative = mx.random.normal((2, 4, 4), key=mx.random.key(seed)).astype(mx.bfloat16)
    calls = []

    def predict_both(latents, step, timestep):
        calls.append((latents is LATENTS, step, timestep))
        return positive, negative

    together = guided_together(predict_both, guide_scale)(LATENTS, 3, 833.0)
    apart = guided(lambda *_: positive, lambda *_: negative, guide_scale)(LATENTS, 3, 833.0)
    assert mx.array_equal(together, apart).item()
    assert together.dtype == mx.float32
    assert calls == [(True, 3, 833.0)]
