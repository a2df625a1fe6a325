"""What LongCat-Video's frames see of each other, of the text and of the timestep."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import Pass
from mlx_video.models.remembered_keys import RememberedKeys
from mlx_video.models.token_layout import TokenLayout, video_layout
from tests.fixtures.longcat_checkpoint import longcat_arrays
from tests.models.longcat_networks import LONGCAT, load_longcat
from tests.models.networks import at, relative_error
from tests.parity.golden import fill

LATENTS = fill((16, 5, 4, 6), 2001, 1.7)
GRID, CLEAN = (5, 2, 3), 2
TEXT = fill((9, LONGCAT.text_dim), 2002)


@pytest.fixture(scope="module")
def model():
    return load_longcat(longcat_arrays(LONGCAT, 3))


def velocity(model, latents=LATENTS, text=TEXT, timestep=500.0, layout=None, **options):
    one = Pass(model.project_text(mx.array(text)), **options)
    layout = layout or video_layout(GRID, CLEAN)
    (found,) = model.predict(mx.array(latents), at(timestep), [one], layout=layout)
    return np.array(found)


@pytest.mark.parametrize(("timestep", "rounded"), [(992.8058, 992.0), (974.3589, 976.0), (571.4286, 572.0)])
def test_timesteps_are_rounded_where_the_weights_are_bfloat16_alone(model, timestep, rounded):
    halved = load_longcat(longcat_arrays(LONGCAT, 3), dtype=mx.bfloat16)
    layout = video_layout(GRID)
    for network, is_rounded in ((halved, True), (model, False)):
        found, other = (network.embed_time(value, layout).embedding for value in (timestep, rounded))
        assert mx.array_equal(found, other) == is_rounded


def test_every_norm_of_heads_has_the_models_epsilon(model):
    blocks = [getattr(block, name) for block in model.blocks for name in ("self_attn", "cross_attn")]
    norms = [norm for attention in blocks for norm in (attention.norm_q, attention.norm_k)]
    assert {norm.eps for norm in norms} == {LONGCAT.eps} == {1e-6}


def test_clean_frames_see_neither_noise_nor_text_nor_the_timestep(model):
    noisier = LATENTS.copy()
    noisier[:, CLEAN:] *= 2
    expected = velocity(model)
    for changed in (
        velocity(model, latents=noisier), velocity(model, text=TEXT[:3]), velocity(model, timestep=900.0)
    ):  # fmt: skip
        assert np.array_equal(changed[:, :CLEAN], expected[:, :CLEAN])
        assert np.abs(changed[:, CLEAN:] - expected[:, CLEAN:]).max() > 1e-3


def test_noisy_frames_see_the_clean_ones(model):
    other = LATENTS.copy()
    other[:, 0] += 1
    assert np.abs(velocity(model, latents=other) - velocity(model))[:, CLEAN:].max() > 1e-3


def test_places_behind_the_text_are_attended_to(model):
    """They hold zeros, of which the layer for keys makes its bias."""
    prompt = model.project_text(mx.array(TEXT))
    keys = model.blocks[0].cross_attn.keys_values(prompt.text.tokens)
    assert prompt.text.tokens.shape[0] == LONGCAT.text_len == keys.keys.shape[2]
    assert not np.array(prompt.text.tokens[len(TEXT) :]).any()
    assert np.array(keys.keys[0, :, len(TEXT) :]).any()


def test_kept_keys_and_values_stand_for_the_clean_frames(model):
    clean, noisy = (TokenLayout((segment,)) for segment in video_layout(GRID, CLEAN).segments)
    kept = RememberedKeys()
    attention = Pass(model.project_text(mx.array(TEXT))).attention
    velocity(model, LATENTS[:, :CLEAN], layout=clean, attention=kept.recording(attention))
    found = velocity(model, LATENTS[:, CLEAN:], layout=noisy, attention=kept.before(attention))
    assert relative_error(mx.array(found), velocity(model)[:, CLEAN:]) <= 1e-5
