"""The whole transformer: tokens, timesteps, text, and the seams."""

from __future__ import annotations

import shutil

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_video.models.block_context import BlockHook, Pass
from mlx_video.models.elementwise import enable_compile, on_gpu
from mlx_video.models.matmul import attend
from mlx_video.models.token_layout import TokenLayout, video_layout, video_segment
from mlx_video.models.transformer import WanTransformer, patchify, sinusoid, token_grid, unpatchify
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.rules import target_shapes
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    FIRST_AND_LAST_FRAME,
    IMAGE_TO_VIDEO,
    NUM_TOKENS,
    ONE_IMAGE,
    TIMESTEP,
    TRANSFORMER,
    TWO_IMAGES,
    at,
    build_transformer,
    forward,
    layout_at,
    predict,
    relative_error,
    run_gpu_code,
)
from tests.parity.golden import fill

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
        transformer.predict(mx.zeros((36, 3, 4, 6)), at(), [Pass(text)])


# Timesteps


def test_sinusoid_has_cosines_first_in_float64():
    found = np.array(sinusoid(np.array([999.0]), 256))[0, [0, 1, 64, 127, 128, 129, 192, 255]]
    expected = [0.9996499, 0.9637825, -0.8444697, 0.9942431, -0.02646075, -0.2666896, -0.5356033, 0.1071472]
    np.testing.assert_allclose(found, expected, atol=6e-8)


def test_equal_neighbours_form_a_span():
    values, spans = layout_at((5, 1, 1), [0.0, 0.0, None, 5.0, 0.0]).find_timesteps(5.0)
    assert values.tolist() == [0, 5]
    assert [(span.start, span.stop, span.row) for span in spans] == [(0, 2, 0), (2, 4, 1), (4, 5, 0)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from([0.0, 250.0, 999.0]), min_size=2, max_size=20))
def test_spans_say_every_tokens_timestep(timesteps):
    values, spans = layout_at((len(timesteps), 1, 1), timesteps).find_timesteps(1.0)
    assert [float(values[span.row]) for span in spans for _ in range(span.start, span.stop)] == timesteps


def test_given_tokens_have_timestep_zero_and_all_others_that_of_the_step():
    values, spans = video_layout((3, 2, 5), given_frames=1).find_timesteps(937.0)
    assert values.tolist() == [0.0, 937.0]
    assert [(span.start, span.stop, span.row) for span in spans] == [(0, 10, 0), (10, 30, 1)]


def test_a_video_of_one_latent_frame_is_given_whole():
    layout = video_layout((1, 2, 5), given_frames=1)
    assert layout.num_tokens == 10
    values, spans = layout.find_timesteps(937.0)
    assert values.tolist() == [0.0]
    assert len(spans) == 1


def test_a_layout_that_does_not_fit_the_latents_is_refused(transformer):
    with pytest.raises(ValueError, match="layout of 12 tokens for latents of 18"):
        forward(transformer, layout=video_layout((2, 2, 3)))


def test_the_time_path_runs_once_for_each_distinct_timestep(transformer):
    features = transformer.embed_time(TIMESTEP, video_layout((3, 2, 3), given_frames=1))
    assert features.embedding.shape == (2, 64)
    assert features.modulation.shape == (2, 6, 64)


def test_equal_timesteps_per_token_give_what_one_timestep_gives(transformer, velocity):
    layout = layout_at((3, 2, 3), [TIMESTEP] * NUM_TOKENS)
    np.testing.assert_array_equal(forward(transformer, 100.0, layout=layout), velocity)


def test_the_code_of_a_gpu_gives_the_same_velocity(transformer, velocity, monkeypatch):
    run_gpu_code(monkeypatch)
    # Only attention and GELU are written otherwise.
    assert relative_error(forward(transformer), velocity) <= 1e-5


def test_the_time_path_is_float32_whatever_the_weights(transformer):
    half = build_transformer(dtype=mx.bfloat16).embed_time(TIMESTEP, video_layout((3, 2, 3)))
    assert half.embedding.dtype == half.modulation.dtype == mx.float32
    # Weights rounded to 8 bits, everything else in float32.
    assert (
        relative_error(half.modulation, transformer.embed_time(TIMESTEP, video_layout((3, 2, 3))).modulation)
        < 1e-2
    )


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
        (found,) = predict(transformer, [text], timestep)
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
    context, tokens = mx.array(CONTEXT), mx.array(ONE_IMAGE)
    positive = image_transformer.project_text(-context, tokens)
    negative = image_transformer.project_text(context, positive.image)
    options = {"concat_latents": mx.array(CONCAT_LATENTS)}
    _, shared = predict(image_transformer, [positive, negative], **options)
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
    """A block source that yields wrapped blocks, and records their turns."""

    def __init__(self, blocks, shares_blocks=True):
        self.stored = blocks
        self.shares_blocks = shares_blocks
        self.turns = []

    def blocks(self, names):
        for name in names[: len(self.stored)]:
            self.turns.append(name.index)
            yield Wrapped(self.stored[name.index])


class Wrapped:
    def __init__(self, block):
        self.block = block

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

    def __init__(self, decides_after=0):
        self.decides_after = decides_after
        self.entering = self.residual = None
        self.skip = False
        self.seen = []
        self.entered = []

    def enter(self, tokens):
        self.entered.append(tokens)

    def reuse(self, tokens, context):
        self.seen.append((context.index, context.step.timestep))
        self.entering = tokens
        return tokens + self.residual if self.skip else None

    def store(self, tokens, context):
        self.residual = tokens - self.entering

    def state(self):
        return {}

    def restore(self, state):
        assert not state


def test_a_step_cache_may_skip_the_blocks(transformer, velocity, monkeypatch):
    cache = ResidualCache()
    assert relative_error(forward(transformer, cache=cache), velocity) <= 1e-6
    cache.skip = True
    monkeypatch.setattr(type(transformer.blocks[0]), "__call__", lambda *_: pytest.fail("a block ran"))
    assert relative_error(forward(transformer, cache=cache), velocity) <= 1e-6
    # The head still sees the current timestep.
    assert relative_error(forward(transformer, 100.0, cache=cache), velocity) > 1e-2
    assert cache.seen == [(0, TIMESTEP), (0, TIMESTEP), (0, 100.0)]


def test_a_step_that_a_cache_skips_asks_for_no_block(transformer):
    cache, source = ResidualCache(), Reordered(transformer.blocks)
    forward(transformer, cache=cache, block_source=source)
    cache.skip = True
    forward(transformer, cache=cache, block_source=source)
    assert source.turns == [0, 1]


def test_a_step_cache_may_decide_after_the_first_block(transformer, velocity):
    cache, source = ResidualCache(decides_after=1), Reordered(transformer.blocks)
    assert relative_error(forward(transformer, cache=cache, block_source=source), velocity) <= 1e-6
    cache.skip = True
    assert relative_error(forward(transformer, cache=cache, block_source=source), velocity) <= 1e-6
    assert source.turns == [0, 1, 0]
    assert [index for index, _ in cache.seen] == [1, 1]
    # It sees the tokens before the first block, too.
    assert len(cache.entered) == 2
    assert not mx.array_equal(cache.entered[1], cache.entering)


def test_one_pass_may_be_skipped_while_another_runs(transformer, velocity):
    texts = [transformer.project_text(mx.array(CONTEXT))] * 2
    cache, source = ResidualCache(), Reordered(transformer.blocks)
    for cache.skip in (False, True):
        both = predict(transformer, texts, pass_options=[{"cache": cache}, {}], block_source=source)
        for found in both:
            assert relative_error(found, velocity) <= 1e-6
    assert source.turns == [0, 1, 0, 1]


def test_a_skipped_layer_leaves_the_tokens_alone(transformer, velocity):
    without = forward(transformer, skip_layers=frozenset({1}))
    np.testing.assert_array_equal(
        forward(transformer, block_source=Reordered(transformer.blocks[:1])), without
    )
    assert relative_error(without, velocity) > 1e-3


class RecordingHook(BlockHook):
    def __init__(self, after: int | None = None):
        self.after = after
        self.calls = []

    def before_blocks(self, tokens, context):
        self.calls.append("embedding")
        return tokens

    def after_block(self, tokens, context):
        self.calls.append(context.index)
        return -tokens if context.index == self.after else tokens


def test_a_hook_is_called_after_the_embedding_and_each_block(transformer, velocity):
    hook = RecordingHook()
    np.testing.assert_array_equal(forward(transformer, hooks=(hook,)), velocity)
    assert hook.calls == ["embedding", 0, 1]


def test_a_hook_changes_what_the_next_block_sees(transformer, velocity):
    assert relative_error(forward(transformer, hooks=(RecordingHook(after=0),)), velocity) > 1e-3


class RunBlockAgain(BlockHook):
    """Runs a block of its own between two blocks, as VACE does: on time, positions and text of the pass."""

    def __init__(self, block):
        self.block = block

    def after_block(self, tokens, context):
        return self.block(tokens, context.at(1)) if context.index == 0 else tokens


def test_a_hook_sees_time_positions_and_text(transformer):
    second = transformer.blocks[1]
    # In the place of a block that is left out, it does what that block would have done.
    hooked = forward(transformer, hooks=(RunBlockAgain(second),), skip_layers=frozenset({1}))
    np.testing.assert_array_equal(hooked, forward(transformer))


class Reference(BlockHook):
    """Puts tokens of a reference image before the video, which then begins one frame later."""

    def __init__(self, tokens, timestep=None, is_output=False):
        self.tokens = tokens
        self.segment = video_segment((1, 2, 3), timestep=timestep, is_output=is_output)
        self.seen = None

    def extend(self, tokens, layout):
        later = tuple(video_segment((3, 2, 3), (1, 0, 0)) for _ in layout.segments)
        return mx.concatenate([self.tokens, tokens]), TokenLayout((self.segment, *later))

    def before_blocks(self, tokens, context):
        self.seen = (len(tokens), context.rotary.cos.shape[0], context.time.spans)
        return tokens


REFERENCE = mx.array(fill((6, 64), 41, 1.7))


def test_tokens_put_before_the_video_are_attended_to_and_left_out_of_the_velocity(transformer, velocity):
    reference = Reference(REFERENCE)
    found = forward(transformer, hooks=(reference,))
    assert found.shape == velocity.shape
    assert reference.seen[:2] == (24, 24)
    assert relative_error(found, velocity) > 1e-3
    assert relative_error(forward(transformer, hooks=(Reference(-REFERENCE),)), found) > 1e-3


def test_added_tokens_may_have_a_timestep_of_their_own(transformer):
    reference = Reference(REFERENCE, timestep=0.0)
    found = forward(transformer, hooks=(reference,))
    assert [(span.start, span.stop) for span in reference.seen[2]] == [(0, 6), (6, 24)]
    assert relative_error(found, forward(transformer, hooks=(Reference(REFERENCE),))) > 1e-3


def test_the_layout_places_the_video(transformer, velocity):
    moved = TokenLayout((video_segment((3, 2, 3), (4, 0, 0)),))
    # Attention sees differences of positions alone.
    assert relative_error(forward(transformer, layout=moved), velocity) <= 1e-5
    spread = TokenLayout(tuple(video_segment((1, 2, 3), (t, 0, 0)) for t in (0, 5, 20)))
    assert relative_error(forward(transformer, layout=spread), velocity) > 1e-4


def test_what_a_pass_adds_to_the_modulation_counts(transformer, velocity):
    same = forward(transformer, added_modulation=mx.zeros((6, 64)))
    np.testing.assert_array_equal(same, velocity)
    assert relative_error(forward(transformer, added_modulation=REFERENCE), velocity) > 1e-3


def test_the_pass_says_how_tokens_attend(transformer, velocity):
    def attend_to_text_alone(queries, keys, values, site):
        if site.kind == "self":
            return mx.zeros_like(queries)
        return attend(queries, keys, values, site.layer.scale)

    assert relative_error(forward(transformer, attention=attend_to_text_alone), velocity) > 1e-3


def two_texts(transformer):
    return [transformer.project_text(mx.array(context)) for context in (CONTEXT, -CONTEXT)]


@pytest.mark.parametrize("shares_blocks", [True, False])
def test_prompts_predicted_together_get_what_they_get_alone(transformer, velocity, shares_blocks):
    (negative,) = predict(transformer, [transformer.project_text(-mx.array(CONTEXT))])
    source = Reordered(transformer.blocks, shares_blocks)
    found = predict(transformer, two_texts(transformer), block_source=source)
    np.testing.assert_array_equal(np.array(found[0]), velocity)
    np.testing.assert_array_equal(np.array(found[1]), np.array(negative))
    assert source.turns == ([0, 1] if shares_blocks else [0, 1, 0, 1])
    assert mx.array_equal(predict(transformer, two_texts(transformer))[1], negative).item()


def test_each_prompt_of_one_walk_has_a_hook_of_its_own(transformer, velocity):
    hook = RecordingHook(after=0)
    plain, changed = predict(
        transformer,
        two_texts(transformer),
        pass_options=[{}, {"hooks": (hook,)}],
        block_source=Reordered(transformer.blocks),
    )
    np.testing.assert_array_equal(np.array(plain), velocity)
    (alone,) = predict(
        transformer, two_texts(transformer)[1:], pass_options=[{"hooks": (RecordingHook(after=0),)}]
    )
    np.testing.assert_array_equal(np.array(changed), np.array(alone))
    assert hook.calls == ["embedding", 0, 1]


def test_no_pass_is_no_forward(transformer):
    assert predict(transformer, [], block_source=Reordered(transformer.blocks)) == []


@pytest.mark.slow
def test_the_first_pass_is_finished_before_the_next_begins():
    """Else the activations of both would be in memory at once."""
    transformer = build_transformer()
    latents, texts = mx.zeros((16, 9, 32, 32)), two_texts(transformer)

    def measured(texts):
        mx.clear_cache()
        mx.reset_peak_memory()
        mx.eval(transformer.predict(latents, at(), [Pass(text) for text in texts]))
        return mx.get_peak_memory()

    measured(texts)
    alone, both = measured(texts[:1]), measured(texts)
    assert both < 1.25 * alone  # 1.6 with both in memory


def test_a_transformer_without_its_blocks_asks_for_a_source():
    transformer = WanTransformer(TRANSFORMER)
    transformer.blocks = []
    with pytest.raises(ValueError, match="0 of 2 blocks are in memory: give a block source"):
        forward(transformer)


def test_a_skipped_step_calls_no_hook_after_blocks(transformer):
    cache, hook = ResidualCache(), RecordingHook()
    forward(transformer, cache=cache)
    cache.skip = True
    forward(transformer, cache=cache, hooks=(hook,))
    assert hook.calls == ["embedding"]
