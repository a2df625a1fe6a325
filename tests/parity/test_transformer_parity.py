"""Every leaf of the transformer agrees with the official code in float32.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a leaf adds a few hundred products.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import BlockContext, CrossAttentionCache, PromptTokens, TimeFeatures
from mlx_video.models.matmul import project
from mlx_video.models.rope import build_rotary_table, rotate
from mlx_video.models.token_layout import TokenSpan, video_layout
from mlx_video.models.transformer import patchify, unpatchify
from tests.models.networks import (
    CONTEXT,
    LATENTS,
    NUM_TOKENS,
    TIMESTEP,
    TRANSFORMER,
    at,
    build_transformer,
    forward,
    layout_at,
    relative_error,
    transformer_arrays,
)
from tests.parity.golden import fill
from tests.parity.official import wan_module

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.parity,
    # The official code enters a CUDA autocast region, which says so on a machine without CUDA.
    pytest.mark.filterwarnings("ignore:.*CUDA is not available"),
]

TOLERANCE = 1e-5
GRID = (3, 2, 3)
PATCH_SIZE = TRANSFORMER.patch_size
MIXED_TIMESTEPS = [0.0] * 6 + [TIMESTEP] * 12


def build_official(config=TRANSFORMER):
    model = wan_module("model").WanModel(
        model_type=config.model_type, text_len=config.text_len, in_dim=config.in_dim, dim=config.dim,
        ffn_dim=config.ffn_dim, freq_dim=config.freq_dim, text_dim=config.text_dim, out_dim=config.out_dim,
        num_heads=config.num_heads, num_layers=config.num_layers, eps=config.eps,
    )  # fmt: skip
    model.load_state_dict({name: torch.tensor(values) for name, values in transformer_arrays(config).items()})
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def official():
    return build_official()


@pytest.fixture(scope="module")
def ours():
    return build_transformer()


TOKENS = fill((NUM_TOKENS, 64), 11, 1.7)
TEXT_TOKENS = fill((512, 64), 12, 1.7)
EMBEDDING = fill((1, 64), 13)
MODULATION = fill((1, 6, 64), 14)
TIME = TimeFeatures(mx.array(EMBEDDING), mx.array(MODULATION), (TokenSpan(0, NUM_TOKENS, 0),))


def batch(values: np.ndarray):
    return torch.tensor(values)[None]


def context(index: int = 0) -> BlockContext:
    layout = video_layout(GRID)
    text = PromptTokens(CrossAttentionCache(mx.array(TEXT_TOKENS)))
    rotary = build_rotary_table(layout, TRANSFORMER.head_dim)
    return BlockContext(at(), TIME, layout, rotary, text, index=index)


def grid_arguments(official) -> dict:
    return {
        "seq_lens": torch.tensor([NUM_TOKENS]),
        "grid_sizes": torch.tensor([GRID]),
        "freqs": official.freqs,
    }


def test_patch_embedding_agrees(official, ours):
    expected = official.patch_embedding(batch(LATENTS)).flatten(2).transpose(1, 2)[0]
    found = project(ours.patch_embedding_proj, patchify(mx.array(LATENTS), PATCH_SIZE))
    assert relative_error(found, expected) <= TOLERANCE


def test_unpatchify_agrees(official):
    patches = fill((NUM_TOKENS, 64), 15)
    expected = official.unpatchify(batch(patches), torch.tensor([GRID]))[0]
    np.testing.assert_array_equal(np.array(unpatchify(mx.array(patches), GRID, PATCH_SIZE)), expected.numpy())


@pytest.mark.parametrize("timestep", [0.0, 1.0, 250.0, 937.0, 999.0, 1000.0])
def test_time_path_agrees(official, ours, timestep):
    sinusoid = wan_module("model").sinusoidal_embedding_1d(256, torch.tensor([timestep])).float()
    embedding = official.time_embedding(sinusoid)
    modulation = official.time_projection(embedding).unflatten(1, (6, 64))
    features = ours.embed_time(timestep, video_layout(GRID))
    assert relative_error(features.embedding, embedding) <= TOLERANCE
    assert relative_error(features.modulation, modulation) <= TOLERANCE


def test_text_layers_agree_on_padded_text(official, ours):
    padded = torch.cat([torch.tensor(CONTEXT), torch.zeros(512 - len(CONTEXT), 32)])
    found = ours.project_text(mx.array(CONTEXT)).text.tokens
    assert relative_error(found, official.text_embedding(padded)) <= TOLERANCE


@pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
@pytest.mark.parametrize("grid", [(3, 2, 3), (21, 5, 4), (1, 45, 80)])
def test_rotary_positions_agree(head_dim, grid):
    model = wan_module("model")
    count, side = int(np.prod(grid)), 2 * (head_dim // 6)
    freqs = torch.cat([model.rope_params(1024, size) for size in (head_dim - 2 * side, side, side)], dim=1)
    x = fill((count, 2, head_dim), 16, 1.7)
    expected = model.rope_apply(batch(x), torch.tensor([grid]), freqs)[0]
    assert (
        relative_error(rotate(mx.array(x), build_rotary_table(video_layout(grid), head_dim)), expected)
        <= 1e-6
    )


def test_self_attention_agrees(official, ours):
    expected = official.blocks[0].self_attn(batch(TOKENS), **grid_arguments(official))[0]
    assert relative_error(ours.blocks[0].self_attn(mx.array(TOKENS), context()), expected) <= TOLERANCE


def test_cross_attention_agrees(official, ours):
    expected = official.blocks[0].cross_attn(batch(TOKENS), batch(TEXT_TOKENS), None)[0]
    found = ours.blocks[0].cross_attn(mx.array(TOKENS), context())
    assert relative_error(found, expected) <= TOLERANCE


def test_feed_forward_agrees(official, ours):
    expected = official.blocks[0].ffn(torch.tensor(TOKENS))
    assert relative_error(ours.blocks[0].ffn(mx.array(TOKENS)), expected) <= TOLERANCE


def test_block_agrees(official, ours):
    per_token = torch.tensor(MODULATION).expand(1, NUM_TOKENS, 6, 64)
    expected = official.blocks[1](
        batch(TOKENS), e=per_token, context=batch(TEXT_TOKENS), context_lens=None, **grid_arguments(official)
    )[0]
    assert relative_error(ours.blocks[1](mx.array(TOKENS), context(1)), expected) <= TOLERANCE


def test_head_agrees(official, ours):
    expected = official.head(batch(TOKENS), torch.tensor(EMBEDDING).expand(1, NUM_TOKENS, 64))[0]
    assert relative_error(ours.head(mx.array(TOKENS), TIME), expected) <= TOLERANCE


def official_velocity(model, timesteps, latents=LATENTS, **options):
    found = model(
        [torch.tensor(latents)], t=torch.tensor(timesteps), context=[torch.tensor(CONTEXT)],
        seq_len=NUM_TOKENS, **options,
    )  # fmt: skip
    return found[0]


def test_whole_transformer_agrees(official, ours):
    assert relative_error(forward(ours), official_velocity(official, [TIMESTEP])) <= TOLERANCE


def test_whole_transformer_agrees_on_timesteps_per_token(official, ours):
    found = forward(ours, layout=layout_at(GRID, MIXED_TIMESTEPS))
    assert relative_error(found, official_velocity(official, [MIXED_TIMESTEPS])) <= TOLERANCE


def test_whole_transformer_agrees_with_concatenated_channels():
    config = replace(TRANSFORMER, in_dim=36, model_type="i2v")
    extra = fill((20, 3, 4, 6), 1003, 1.7)
    found = forward(build_transformer(config), concat_latents=mx.array(extra))
    expected = official_velocity(build_official(config), [TIMESTEP], y=[torch.tensor(extra)])
    assert relative_error(found, expected) <= TOLERANCE
