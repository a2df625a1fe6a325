"""Every leaf of the text encoder agrees with the official code and with transformers in float32.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a leaf adds a few hundred products.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.encoders.text_encoder import relative_buckets
from tests.models.networks import (
    TEXT_ENCODER,
    build_text_encoder,
    relative_error,
    run_gpu_code,
    text_encoder_arrays,
)
from tests.parity.golden import fill
from tests.parity.official import wan_module

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
LENGTH = 20
TOKENS = fill((LENGTH, 64), 21, 1.7)
IDS = np.arange(3, 3 + LENGTH) * 13 % 300


@pytest.fixture(scope="module")
def official():
    encoder = wan_module("t5").T5Encoder(
        vocab=TEXT_ENCODER.vocab_size, dim=TEXT_ENCODER.dim, dim_attn=TEXT_ENCODER.dim_attn,
        dim_ffn=TEXT_ENCODER.dim_ffn, num_heads=TEXT_ENCODER.num_heads, num_layers=TEXT_ENCODER.num_layers,
        num_buckets=TEXT_ENCODER.num_buckets, shared_pos=False,
    )  # fmt: skip
    encoder.load_state_dict({name: torch.tensor(values) for name, values in text_encoder_arrays().items()})
    return encoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours():
    return build_text_encoder()


def batch(values: np.ndarray):
    return torch.tensor(values)[None]


@pytest.mark.parametrize("length", [1, 20, 512])
def test_buckets_agree(official, length):
    positions = torch.arange(length)
    offsets = positions[None, :] - positions[:, None]
    expected = official.blocks[0].pos_embedding._relative_position_bucket(offsets)
    np.testing.assert_array_equal(relative_buckets(length, 32), expected.numpy())


def test_position_bias_agrees(official, ours):
    expected = official.blocks[1].pos_embedding(LENGTH, LENGTH)[0]
    found = ours.blocks[1].pos_embedding(ours.buckets(LENGTH))
    np.testing.assert_array_equal(np.array(found), expected.numpy())


def test_attention_agrees(official, ours):
    bias = fill((4, LENGTH, LENGTH), 22)
    expected = official.blocks[0].attn(batch(TOKENS), pos_bias=batch(bias))[0]
    assert relative_error(ours.blocks[0].attn(mx.array(TOKENS), mx.array(bias)), expected) <= TOLERANCE


def test_feed_forward_agrees(official, ours):
    expected = official.blocks[0].ffn(torch.tensor(TOKENS))
    assert relative_error(ours.blocks[0].ffn(mx.array(TOKENS)), expected) <= TOLERANCE


def test_norm_agrees(official, ours):
    assert relative_error(ours.norm(mx.array(TOKENS)), official.norm(torch.tensor(TOKENS))) <= TOLERANCE


def test_block_agrees(official, ours):
    expected = official.blocks[1](batch(TOKENS))[0]
    assert relative_error(ours.blocks[1](mx.array(TOKENS), ours.buckets(LENGTH)), expected) <= TOLERANCE


def test_real_tokens_alone_agree_with_the_padded_and_masked_text(official, ours):
    padded, mask = torch.zeros(1, 512, dtype=torch.long), torch.zeros(1, 512, dtype=torch.long)
    padded[0, :LENGTH], mask[0, :LENGTH] = torch.tensor(IDS), 1
    expected = official(padded, mask)[0, :LENGTH]
    assert relative_error(ours(mx.array(IDS)), expected) <= TOLERANCE


def test_an_empty_prompt_agrees_with_the_official_one_padded_and_masked(official, ours):
    """Its only token is the end of the text, number 1 of every T5 vocabulary."""
    padded, mask = torch.zeros(1, 512, dtype=torch.long), torch.zeros(1, 512, dtype=torch.long)
    padded[0, 0] = mask[0, 0] = 1
    assert relative_error(ours(mx.array([1])), official(padded, mask)[0, :1]) <= TOLERANCE


def test_bfloat16_is_as_near_to_float32_as_the_official_bfloat16(official, ours, monkeypatch):
    reference = np.array(ours(mx.array(IDS)))
    run_gpu_code(monkeypatch)
    half = official.to(torch.bfloat16)
    theirs = half(torch.tensor(IDS)[None], torch.ones(1, LENGTH))[0].float().numpy()
    official.to(torch.float32)
    found = np.array(build_text_encoder(dtype=mx.bfloat16)(mx.array(IDS)).astype(mx.float32))
    # Rounding errors are random; twice theirs leaves room for another order of the same roundings.
    assert relative_error(found, reference) <= 2 * relative_error(theirs, reference)


def test_whole_encoder_agrees_with_transformers(ours):
    transformers = pytest.importorskip("transformers")
    config = transformers.UMT5Config(
        vocab_size=TEXT_ENCODER.vocab_size, d_model=TEXT_ENCODER.dim, d_kv=16, d_ff=TEXT_ENCODER.dim_ffn,
        num_layers=TEXT_ENCODER.num_layers, num_heads=TEXT_ENCODER.num_heads, feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )  # fmt: skip
    encoder = transformers.UMT5EncoderModel(config).eval().requires_grad_(False)
    missing, unexpected = encoder.load_state_dict(transformers_names(text_encoder_arrays()), strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"}
    assert unexpected == []
    expected = encoder(torch.tensor(IDS)[None]).last_hidden_state[0]
    assert relative_error(ours(mx.array(IDS)), expected) <= TOLERANCE


def transformers_names(arrays: dict) -> dict:
    """Rename official arrays as the UMT5 of the transformers package spells them."""
    spellings = {
        "token_embedding": "shared",
        "norm1": "layer.0.layer_norm",
        "norm2": "layer.1.layer_norm",
        "attn": "layer.0.SelfAttention",
        "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
        "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
        "ffn.fc1": "layer.1.DenseReluDense.wi_1",
        "ffn.fc2": "layer.1.DenseReluDense.wo",
    }
    renamed = {}
    for name, values in arrays.items():
        for ours, theirs in spellings.items():
            name = name.replace(f".{ours}.", f".{theirs}.") if name.startswith("blocks") else name
        name = name.replace("blocks.", "encoder.block.").replace("token_embedding", "shared")
        renamed[name.replace("norm.weight", "encoder.final_layer_norm.weight", name == "norm.weight")] = (
            torch.tensor(values)
        )
    return renamed
