"""One transformer block: modulation by timestep, attention to the text, precision."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.models import transformer_block
from mlx_video.models.block_context import BlockContext, CrossAttentionCache, PromptTokens, TimeFeatures
from mlx_video.models.dispatch import Limits, use_limits
from mlx_video.models.rope import build_rotary_table
from mlx_video.models.token_layout import TokenSpan, video_layout
from mlx_video.models.transformer_block import by_timestep, modulate
from tests.models.networks import (
    NUM_TOKENS,
    TRANSFORMER,
    at,
    build_transformer,
    relative_error,
    run_gpu_code,
)
from tests.parity.golden import fill

TOKENS = mx.array(fill((NUM_TOKENS, 64), 31, 1.7))
TEXT = mx.array(fill((512, 64), 32, 1.7))
LAYOUT = video_layout((3, 2, 3))
ROTARY = build_rotary_table(LAYOUT, TRANSFORMER.head_dim)
TWO_TIMES = mx.array(fill((2, 6, 64), 33))


@pytest.fixture(params=["this device", "gpu"])
def device(request, monkeypatch):
    if request.param == "gpu":
        run_gpu_code(monkeypatch)


def features(*spans: tuple[int, int, int]) -> TimeFeatures:
    return TimeFeatures(TWO_TIMES[:, 0], TWO_TIMES, tuple(TokenSpan(*span) for span in spans))


def run_block(block, time: TimeFeatures, tokens: mx.array = TOKENS) -> mx.array:
    return block(tokens, BlockContext(at(), time, LAYOUT, ROTARY, PromptTokens(CrossAttentionCache(TEXT))))


def test_parts_meet_the_row_of_their_span():
    spans = (TokenSpan(0, 2, 1), TokenSpan(2, 3, 0), TokenSpan(3, 5, 1))
    found = by_timestep(lambda row, x: x + 100 * row, spans, mx.arange(5))
    assert found.tolist() == [100, 101, 2, 103, 104]


def test_modulation_normalizes_then_scales_and_shifts():
    shift_scale = mx.array(fill((1, 2, 64), 34))
    found = modulate(TOKENS, shift_scale, (TokenSpan(0, NUM_TOKENS, 0),), 1e-6)
    x = np.array(TOKENS, np.float64)
    normalized = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    shift, scale = np.array(shift_scale[0], np.float64)
    np.testing.assert_allclose(np.array(found), normalized * (1 + scale) + shift, atol=1e-5)


def test_spans_of_one_timestep_give_what_a_single_span_gives():
    block = build_transformer().blocks[0]
    whole = run_block(block, features((0, NUM_TOKENS, 1)))
    parts = run_block(block, features((0, 7, 1), (7, NUM_TOKENS, 1)))
    # The same sums over each token; only products of other shapes may add in another order.
    assert relative_error(parts, whole) <= 1e-6


def test_each_span_is_modulated_by_its_own_timestep():
    block = build_transformer().blocks[0]
    x, gates = TOKENS, TWO_TIMES[:, 2]
    mixed = block._add(x, x, gates, features((0, 6, 0), (6, NUM_TOKENS, 1)))
    # 1e-6: one sum is rounded twice here and once there.
    assert relative_error(mixed[:6], x[:6] * (1 + gates[0])) <= 1e-6
    assert relative_error(mixed[6:], x[6:] * (1 + gates[1])) <= 1e-6


def test_closed_gates_and_a_silent_text_leave_the_tokens_alone():
    block = build_transformer().blocks[0]
    block.modulation = mx.zeros_like(block.modulation)
    block.cross_attn.o.update({"weight": mx.zeros((64, 64)), "bias": mx.zeros(64)})
    closed = TimeFeatures(mx.zeros((1, 64)), mx.zeros((1, 6, 64)), (TokenSpan(0, NUM_TOKENS, 0),))
    assert mx.array_equal(run_block(block, closed), TOKENS).item()


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_the_residual_stream_stays_in_float32(dtype):
    block = build_transformer(dtype=dtype).blocks[0]
    assert run_block(block, features((0, NUM_TOKENS, 0))).dtype == mx.float32


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.bfloat16, 2e-2), (mx.float16, 3e-3)])
def test_half_precision_weights_stay_close_to_float32(dtype, tolerance):
    # Tolerance: some ten roundings in a row, of 2^-9 (bfloat16) or 2^-12 (float16) each.
    time = features((0, NUM_TOKENS, 0))
    expected = run_block(build_transformer().blocks[0], time)
    assert relative_error(run_block(build_transformer(dtype=dtype).blocks[0], time), expected) <= tolerance


@pytest.mark.usefixtures("device")
def test_norms_and_modulation_may_stay_in_float32_beside_half_precision_weights():
    block = build_transformer(dtype=mx.bfloat16).blocks[0]
    time = features((0, NUM_TOKENS, 0))
    rounded = run_block(block, time)
    for attention in (block.self_attn, block.cross_attn):
        attention.norm_q.set_dtype(mx.float32)
        attention.norm_k.set_dtype(mx.float32)
    block.modulation = block.modulation.astype(mx.float32)
    # The same values in a wider type: only roundings of bfloat16 on the way can differ.
    assert relative_error(run_block(block, time), rounded) <= 1e-2


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_layers_give_what_their_dequantized_weights_give(bits):
    packed, dense = build_transformer().blocks[0], build_transformer().blocks[0]
    nn.quantize(packed, group_size=32, bits=bits)
    layers = dict(dense.named_modules())
    for path, layer in packed.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            layers[path].weight = mx.dequantize(
                layer.weight, layer.scales, layer.biases, group_size=32, bits=bits
            )
    time = features((0, NUM_TOKENS, 0))
    # The same numbers multiplied; products only add in another order.
    assert relative_error(run_block(packed, time), run_block(dense, time)) <= 1e-5


@pytest.mark.usefixtures("device")
def test_feed_forward_in_chunks_equals_feed_forward_in_one():
    ffn = build_transformer().blocks[0].ffn
    x = mx.array(fill((200, 64), 35))
    whole = ffn(x)
    with use_limits(Limits(chunk_elements=1)):
        # 1e-6: products of other shapes may add in another order.
        assert relative_error(ffn(x), whole) <= 1e-6


def test_attention_is_what_the_context_says():
    block, kinds = build_transformer().blocks[0], []

    def attend(queries, keys, values, site):
        kinds.append((site.kind, site.context.index, site.layer.num_heads, keys.shape[2]))
        return mx.zeros_like(queries)

    context = BlockContext(
        at(), features((0, NUM_TOKENS, 0)), LAYOUT, ROTARY, PromptTokens(CrossAttentionCache(TEXT)), attend
    )
    silent = block.self_attn(TOKENS, context.at(3))
    # Of nothing mixed, the output layer leaves its bias.
    assert mx.array_equal(silent, mx.broadcast_to(block.self_attn.o.bias, TOKENS.shape)).item()
    block(TOKENS, context.at(5))
    assert kinds == [("self", 3, 2, 18), ("self", 5, 2, 18), ("text", 5, 2, 512)]


@pytest.mark.parametrize("spans", [((0, NUM_TOKENS, 0),), ((0, 5, 1), (5, NUM_TOKENS, 0))])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_a_norm_rounded_once_gives_the_bits_of_one_rounded_for_every_layer(monkeypatch, dtype, spans):
    run_gpu_code(monkeypatch)
    block, time = build_transformer(dtype=dtype).blocks[0], features(*spans)
    once = run_block(block, time)
    monkeypatch.setattr(transformer_block, "common_dtype", lambda *_: mx.float32)
    assert mx.array_equal(once, run_block(block, time)).item()


def test_layers_of_several_types_read_a_norm_in_float32(monkeypatch):
    run_gpu_code(monkeypatch)
    attention = build_transformer(dtype=mx.bfloat16).blocks[0].self_attn
    assert attention.input_dtype == mx.bfloat16
    attention.k.weight = attention.k.weight.astype(mx.float32)
    assert attention.input_dtype == mx.float32
