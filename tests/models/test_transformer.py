"""The whole transformer: tokens, timesteps, text, and the three seams."""

from __future__ import annotations

import shutil

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_video.models.elementwise import enable_compile, on_gpu
from mlx_video.models.transformer import WanTransformer, find_runs, patchify, sinusoid, token_grid, unpatchify
from mlx_video.weights.rules import target_shapes
from mlx_video.weights.transformer_names import WAN_RULES, transformer_tensors
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    FIRST_AND_LAST_FRAME,
    IMAGE_TO_VIDEO,
    LATENTS,
    NUM_TOKENS,
    ONE_IMAGE,
    TIMESTEP,
    TRANSFORMER,
    TWO_IMAGES,
    build_transformer,
    forward,
    relative_error,
    run_gpu_code,
)

PATCH_SIZE = TRANSFORMER.patch_size


@pytest.fixture(scope="module")
def transformer():
    return build_transformer()


@pytest.fixture(scope="module")
def velocity(transformer):
    return forward(transformer)


@pytest.mark.parametrize("config", [TRANSFORMER, IMAGE_TO_VIDEO, FIRST_AND_LAST_FRAME])
def test_parameters_carry_the_names_and_shapes_of_a_converted_file(config):
    found = {name: array.shape for name, array in tree_flatten(WanTransformer(config).parameters())}
    assert found == target_shapes(transformer_tensors(config), WAN_RULES)


# Tokens


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([(1, 2, 2), (2, 1, 3)]),
)
def test_unpatchify_undoes_patchify(channels, t, h, w, patch_size):
    size = (t * patch_size[0], h * patch_size[1], w * patch_size[2])
    latents = mx.random.normal((channels, *size), key=mx.random.key(0))
    tokens = patchify(latents, patch_size)
    assert tokens.shape[0] == t * h * w
    # Channels come slowest out of patchify and fastest into unpatchify.
    channel_fastest = tokens.reshape(tokens.shape[0], channels, -1).swapaxes(1, 2).reshape(tokens.shape)
    assert mx.array_equal(unpatchify(channel_fastest, (t, h, w), patch_size), latents).item()


def test_tokens_run_over_time_then_rows_then_columns():
    latents = mx.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    assert patchify(latents, (1, 2, 2))[:, 0].tolist() == [0, 2, 4, 12, 14, 16, 24, 26, 28, 36, 38, 40]


def test_patch_features_run_over_channels_then_rows_then_columns():
    latents = mx.arange(8).reshape(2, 1, 2, 2)
    assert patchify(latents, (1, 2, 2)).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_latents_that_patches_do_not_cover_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 4, 5\).*\(1, 2, 2\)"):
        token_grid((3, 4, 5), (1, 2, 2))


def test_a_wrong_number_of_channels_is_refused(transformer):
    text = transformer.project_text(mx.array(CONTEXT))
    with pytest.raises(ValueError, match=r"36 latent channels.*16"):
        transformer(mx.zeros((36, 3, 4, 6)), TIMESTEP, text)


# Timesteps


def test_sinusoid_has_cosines_first_in_float64():
    found = np.array(sinusoid(np.array([999.0]), 256))[0, [0, 1, 64, 127, 128, 129, 192, 255]]
    expected = [0.9996499, 0.9637825, -0.8444697, 0.9942431, -0.02646075, -0.2666896, -0.5356033, 0.1071472]
    np.testing.assert_allclose(found, expected, atol=6e-8)


def test_equal_neighbours_form_a_run():
    values, runs = find_runs(np.array([0.0, 0.0, 5.0, 5.0, 0.0]), 5)
    assert values.tolist() == [0, 5]
    assert [(run.start, run.stop, run.row) for run in runs] == [(0, 2, 0), (2, 4, 1), (4, 5, 0)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([0.0, 250.0, 999.0]), min_size=2, max_size=20))
def test_runs_say_every_tokens_timestep(timesteps):
    values, runs = find_runs(np.array(timesteps), len(timesteps))
    assert [float(values[run.row]) for run in runs for _ in range(run.start, run.stop)] == timesteps


def test_the_time_path_runs_once_for_each_distinct_timestep(transformer):
    features = transformer.embed_time(mx.array([0.0] * 6 + [TIMESTEP] * 12), NUM_TOKENS)
    assert features.embedding.shape == (2, 64)
    assert features.modulation.shape == (2, 6, 64)


def test_equal_timesteps_per_token_give_what_one_timestep_gives(transformer, velocity):
    np.testing.assert_array_equal(forward(transformer, mx.full((NUM_TOKENS,), TIMESTEP)), velocity)


def test_a_timestep_may_be_an_array_of_no_dimension(transformer, velocity):
    np.testing.assert_array_equal(forward(transformer, mx.array(TIMESTEP)), velocity)


def test_a_wrong_number_of_timesteps_is_refused(transformer):
    with pytest.raises(ValueError, match=r"\(5,\).*18"):
        forward(transformer, mx.zeros(5))


def test_the_code_of_a_gpu_gives_the_same_velocity(transformer, velocity, monkeypatch):
    run_gpu_code(monkeypatch)
    # Only attention and GELU are written otherwise.
    assert relative_error(forward(transformer), velocity) <= 1e-5


def test_the_time_path_is_float32_whatever_the_weights(transformer):
    half = build_transformer(dtype=mx.bfloat16).embed_time(TIMESTEP, NUM_TOKENS)
    assert half.embedding.dtype == half.modulation.dtype == mx.float32
    # Weights rounded to 8 bits, everything else in float32.
    assert relative_error(half.modulation, transformer.embed_time(TIMESTEP, NUM_TOKENS).modulation) < 1e-2


# Text


def test_text_is_padded_before_its_layers(transformer):
    tokens = transformer.project_text(mx.array(CONTEXT)).text.tokens
    assert tokens.shape == (512, 64)
    assert mx.abs(tokens[9]).max().item() > 0
    assert mx.array_equal(tokens[9:], mx.broadcast_to(tokens[9], (503, 64))).item()


def test_too_long_a_text_is_refused(transformer):
    with pytest.raises(ValueError, match=r"513.*512"):
        transformer.project_text(mx.zeros((513, 32)))


def test_text_keys_and_values_are_computed_once(transformer, velocity, monkeypatch):
    text = transformer.project_text(mx.array(CONTEXT))
    calls = []
    attention = type(transformer.blocks[0].cross_attn)
    compute = attention.keys_values
    monkeypatch.setattr(
        attention, "keys_values", lambda self, tokens: (calls.append(self), compute(self, tokens))[1]
    )
    for timestep in (TIMESTEP, 500.0, TIMESTEP):
        found = transformer(mx.array(LATENTS), timestep, text)
    assert len(calls) == len(transformer.blocks)
    np.testing.assert_array_equal(np.array(found), velocity)


# Image


@pytest.fixture(scope="module")
def image_transformer():
    return build_transformer(IMAGE_TO_VIDEO)


def forward_with_image(transformer, image_tokens=ONE_IMAGE, **options):
    return forward(transformer, image_tokens=image_tokens, concat_latents=mx.array(CONCAT_LATENTS), **options)


def test_the_image_changes_the_velocity(image_transformer):
    velocity = forward_with_image(image_transformer)
    assert relative_error(forward_with_image(image_transformer, -ONE_IMAGE), velocity) > 1e-2


def test_image_tokens_meet_a_softmax_of_their_own(image_transformer):
    # Repeating all of them leaves every share of that softmax as it was; joined with the text it would not.
    velocity = forward_with_image(image_transformer)
    twice = np.concatenate([ONE_IMAGE, ONE_IMAGE])
    assert relative_error(forward_with_image(image_transformer, twice), velocity) <= 1e-5


def test_positions_tell_the_first_image_from_the_last():
    transformer = build_transformer(FIRST_AND_LAST_FRAME)
    velocity = forward_with_image(transformer, TWO_IMAGES)
    swapped = np.concatenate([TWO_IMAGES[257:], TWO_IMAGES[:257]])
    assert relative_error(forward_with_image(transformer, swapped), velocity) > 1e-3


def test_prompts_of_one_run_share_the_image(image_transformer, monkeypatch):
    attention, calls = type(image_transformer.blocks[0].cross_attn), []
    compute = attention.image_keys_values
    monkeypatch.setattr(
        attention, "image_keys_values", lambda self, tokens: (calls.append(self), compute(self, tokens))[1]
    )
    latents, context, tokens = (mx.array(values) for values in (LATENTS, CONTEXT, ONE_IMAGE))
    positive = image_transformer.project_text(-context, tokens)
    negative = image_transformer.project_text(context, positive.image)
    options = {"concat_latents": mx.array(CONCAT_LATENTS)}
    image_transformer(latents, TIMESTEP, positive, **options)
    shared = image_transformer(latents, TIMESTEP, negative, **options)
    assert len(calls) == len(image_transformer.blocks)
    np.testing.assert_array_equal(np.array(shared), forward_with_image(image_transformer))


def test_image_tokens_that_do_not_fit_the_transformer_are_refused(transformer, image_transformer):
    context = mx.array(CONTEXT)
    with pytest.raises(ValueError, match="image tokens are missing"):
        image_transformer.project_text(context)
    with pytest.raises(ValueError, match="the transformer has no image branch"):
        transformer.project_text(context, mx.array(ONE_IMAGE))
    with pytest.raises(ValueError, match=r"\(257, 64\).*\[K, 1280\]"):
        image_transformer.project_text(context, mx.zeros((257, 64)))
    with pytest.raises(ValueError, match=r"257 image tokens.*514"):
        build_transformer(FIRST_AND_LAST_FRAME).project_text(context, mx.array(ONE_IMAGE))


@pytest.mark.parametrize("device", ["this device", "gpu"])
def test_velocity_under_an_image_is_close_in_bfloat16(image_transformer, device, monkeypatch):
    expected = forward_with_image(image_transformer)
    if device == "gpu":
        run_gpu_code(monkeypatch)
    found = forward_with_image(build_transformer(IMAGE_TO_VIDEO, dtype=mx.bfloat16))
    assert found.dtype == np.float32
    # Two blocks of roundings of 2^-9 each, on top of weights rounded as much.
    assert relative_error(found, expected) < 5e-2


# Precision


@pytest.mark.parametrize("device", ["this device", "gpu"])
def test_velocity_is_float32_and_close_in_bfloat16(velocity, device, monkeypatch):
    if device == "gpu":
        run_gpu_code(monkeypatch)
    found = forward(build_transformer(dtype=mx.bfloat16))
    assert found.dtype == np.float32
    # Two blocks of roundings of 2^-9 each, on top of weights rounded as much.
    assert relative_error(found, velocity) < 5e-2


@pytest.mark.skipif(not on_gpu() and shutil.which("g++") is None, reason="fusing on a CPU needs g++")
def test_fused_forward_equals_plain_forward(transformer, velocity):
    enable_compile(True)
    try:
        found = forward(transformer)
    finally:
        enable_compile(None)
    assert relative_error(found, velocity) <= 1e-5


# Seams


class Reordered:
    """A block source that yields wrapped blocks, and records their turn."""

    def __init__(self, blocks):
        self.stored = blocks
        self.turns = []

    def blocks(self):
        for index, block in enumerate(self.stored):
            self.turns.append(index)
            yield index, Wrapped(block)


class Wrapped:
    def __init__(self, block):
        self.block = block
        self.cross_attn = block.cross_attn

    def __call__(self, *arguments):
        result = self.block(*arguments)
        mx.eval(result)
        return result


def test_blocks_from_another_source_match_resident_blocks(transformer, velocity):
    source = Reordered(transformer.blocks)
    np.testing.assert_array_equal(forward(transformer, block_source=source), velocity)
    assert source.turns == [0, 1]


class ResidualCache:
    """Keeps what the blocks added, and adds it again when told to skip."""

    def __init__(self):
        self.residual = None
        self.skip = False

    def __call__(self, tokens, time, run_blocks):
        if not self.skip:
            self.residual = run_blocks(tokens) - tokens
        return tokens + self.residual


def test_a_step_cache_may_skip_the_blocks(transformer, velocity, monkeypatch):
    cache = ResidualCache()
    assert relative_error(forward(transformer, step_cache=cache), velocity) <= 1e-6
    cache.skip = True
    monkeypatch.setattr(type(transformer.blocks[0]), "__call__", lambda *_: pytest.fail("a block ran"))
    assert relative_error(forward(transformer, step_cache=cache), velocity) <= 1e-6
    # The head still sees the current timestep.
    assert relative_error(forward(transformer, 100.0, step_cache=cache), velocity) > 1e-2


class RecordingHook:
    def __init__(self, after: int | None = None):
        self.after = after
        self.calls = []

    def after_embedding(self, tokens):
        self.calls.append("embedding")
        return tokens

    def after_block(self, index, tokens):
        self.calls.append(index)
        return -tokens if index == self.after else tokens


def test_a_hook_is_called_after_the_embedding_and_each_block(transformer, velocity):
    hook = RecordingHook()
    np.testing.assert_array_equal(forward(transformer, block_hook=hook), velocity)
    assert hook.calls == ["embedding", 0, 1]


def test_a_hook_changes_what_the_next_block_sees(transformer, velocity):
    assert relative_error(forward(transformer, block_hook=RecordingHook(after=0)), velocity) > 1e-3


def predict_each(transformer, **options):
    texts = [transformer.project_text(mx.array(context)) for context in (CONTEXT, -CONTEXT)]
    return transformer.predict_each(mx.array(LATENTS), TIMESTEP, texts, **options)


def test_prompts_predicted_in_one_walk_get_what_they_get_alone(transformer, velocity):
    negative = transformer(mx.array(LATENTS), TIMESTEP, transformer.project_text(-mx.array(CONTEXT)))
    source = Reordered(transformer.blocks)
    found = predict_each(transformer, block_source=source)
    np.testing.assert_array_equal(np.array(found[0]), velocity)
    np.testing.assert_array_equal(np.array(found[1]), np.array(negative))
    assert source.turns == [0, 1]
    assert mx.array_equal(predict_each(transformer)[1], negative).item()


def test_each_prompt_of_one_walk_has_a_hook_of_its_own(transformer, velocity):
    hook = RecordingHook(after=0)
    plain, changed = predict_each(transformer, block_hooks=[None, hook])
    np.testing.assert_array_equal(np.array(plain), velocity)
    text = transformer.project_text(-mx.array(CONTEXT))
    alone = transformer(mx.array(LATENTS), TIMESTEP, text, block_hook=RecordingHook(after=0))
    np.testing.assert_array_equal(np.array(changed), np.array(alone))
    assert hook.calls == ["embedding", 0, 1]
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        predict_each(transformer, block_hooks=[hook])


def test_a_transformer_without_its_blocks_asks_for_a_source():
    transformer = WanTransformer(TRANSFORMER)
    transformer.blocks = []
    with pytest.raises(ValueError, match="0 of 2 blocks are in memory: give a block source"):
        forward(transformer)


def test_a_skipped_step_calls_no_hook_after_blocks(transformer):
    cache, hook = ResidualCache(), RecordingHook()
    forward(transformer, step_cache=cache)
    cache.skip = True
    forward(transformer, step_cache=cache, block_hook=hook)
    assert hook.calls == ["embedding"]
