"""The UMT5 text encoder."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_video.models.elementwise import on_gpu
from mlx_video.models.encoders.text_encoder import UMT5Encoder, relative_buckets
from mlx_video.weights.names.text_encoder_names import WAN_RULES, text_encoder_tensors
from mlx_video.weights.rules import target_shapes
from tests.models.networks import TEXT_ENCODER, build_text_encoder, relative_error, run_gpu_code

IDS = mx.array([160, 14, 297, 232, 131, 61, 1])
FIRST_OF_BUCKET = {8: 8, 9: 12, 10: 16, 11: 23, 12: 32, 13: 46, 14: 64, 15: 91}


def test_parameters_carry_the_names_and_shapes_of_a_converted_file():
    found = {name: array.shape for name, array in tree_flatten(UMT5Encoder(TEXT_ENCODER).parameters())}
    assert found == target_shapes(text_encoder_tensors(TEXT_ENCODER), WAN_RULES)


def test_near_distances_have_buckets_of_their_own():
    buckets = relative_buckets(8, 32)
    assert buckets[7].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert buckets[0].tolist() == [0, 17, 18, 19, 20, 21, 22, 23]


@pytest.mark.parametrize(("bucket", "distance"), FIRST_OF_BUCKET.items())
def test_far_distances_share_buckets(bucket, distance):
    buckets = relative_buckets(512, 32)
    assert buckets[500, 500 - distance] == bucket
    assert buckets[500, 500 - distance + 1] == bucket - 1
    assert buckets[0, distance] == bucket + 16
    assert buckets[511, 0] == 15


def test_a_single_token_has_features():
    features = build_text_encoder()(mx.array([1]))
    assert features.shape == (1, 64)
    assert mx.all(mx.isfinite(features)).item()


def test_embedding_blocks_and_norm_one_by_one_give_the_whole():
    encoder = build_text_encoder()
    x, buckets = encoder.embed(IDS), encoder.buckets(IDS.shape[0])
    for block in encoder.blocks:
        x = block(x, buckets)
    assert mx.array_equal(encoder.norm(x), encoder(IDS)).item()


def test_order_of_the_tokens_matters():
    encoder = build_text_encoder()
    assert relative_error(encoder(IDS[::-1])[::-1], encoder(IDS)) > 1e-2


def test_bfloat16_on_a_gpu_stays_bfloat16_and_close(monkeypatch):
    run_gpu_code(monkeypatch)
    found = build_text_encoder(dtype=mx.bfloat16)(IDS)
    assert found.dtype == mx.bfloat16
    # Two blocks of roundings of 2^-9 each, on top of weights rounded as much.
    assert relative_error(found.astype(mx.float32), build_text_encoder()(IDS)) < 5e-2


@pytest.mark.skipif(on_gpu(), reason="what a CPU does")
def test_bfloat16_on_a_cpu_is_computed_in_float32():
    encoder, reference = build_text_encoder(dtype=mx.bfloat16), build_text_encoder(dtype=mx.bfloat16)
    reference.set_dtype(mx.float32)
    assert relative_error(encoder(IDS), reference(IDS)) <= 1e-6


@pytest.mark.parametrize("device", ["this device", "gpu"])
def test_float16_weights_are_computed_in_float32(device, monkeypatch):
    if device == "gpu":
        run_gpu_code(monkeypatch)
    encoder, reference = build_text_encoder(dtype=mx.float16), build_text_encoder(dtype=mx.float16)
    reference.set_dtype(mx.float32)
    found = encoder(IDS)
    assert found.dtype == mx.float32
    assert relative_error(found, reference(IDS)) <= 1e-6


def test_activations_beyond_the_range_of_float16_survive_float16_weights():
    encoder = build_text_encoder(dtype=mx.float16)
    table = encoder.token_embedding.weight
    encoder.token_embedding.weight = mx.full(table.shape, 6e4, dtype=mx.float16)
    for block in encoder.blocks:
        block.attn.o.weight = block.attn.o.weight * 1e4
    inner = encoder.blocks[0](encoder.embed(IDS), encoder.buckets(IDS.shape[0]))
    assert mx.abs(inner).max().item() > 65504
    assert mx.all(mx.isfinite(encoder(IDS))).item()
