"""Every leaf of the transformer's image branch agrees with Diffusers' port of Wan2.1 in float32.

The published reference package (wan22) has no Wan2.1 image-to-video transformer. Tolerance 1e-5 of the
largest value: float32 rounds at 6e-8, and a leaf adds up to 1280 products.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import CrossAttentionCache, PromptTokens
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    FIRST_AND_LAST_FRAME,
    IMAGE_TO_VIDEO,
    LATENTS,
    NUM_TOKENS,
    ONE_IMAGE,
    TWO_IMAGES,
    build_transformer,
    context_of,
    forward,
    relative_error,
    transformer_arrays,
)
from tests.parity.diffusers_transformer import build_diffusers
from tests.parity.golden import fill

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
# Diffusers computes the sinusoid in float32, which is exact to 6e-8 only at early timesteps.
EARLY_TIMESTEP = 1.0
IMAGES = {"one image": (IMAGE_TO_VIDEO, ONE_IMAGE), "two images": (FIRST_AND_LAST_FRAME, TWO_IMAGES)}


@pytest.fixture(scope="module", params=IMAGES.values(), ids=IMAGES)
def case(request):
    config, image_tokens = request.param
    theirs = build_diffusers(config, transformer_arrays(config))
    return theirs, build_transformer(config), image_tokens


def batch(values: np.ndarray):
    return torch.tensor(values)[None]


def as_images(image_tokens: np.ndarray):
    """[n·257, width] as the features of n images."""
    return torch.tensor(image_tokens).reshape(-1, 257, image_tokens.shape[1])


def test_the_projection_of_image_features_agrees(case):
    theirs, ours, image_tokens = case
    expected = theirs.condition_embedder.image_embedder(as_images(image_tokens))[0]
    assert relative_error(ours.img_emb(mx.array(image_tokens)), expected) <= TOLERANCE


def test_cross_attention_to_text_and_image_agrees(case):
    theirs, ours, image_tokens = case
    tokens, text = fill((NUM_TOKENS, 64), 51, 1.7), fill((512, 64), 52, 1.7)
    image = fill((len(image_tokens), 64), 53, 1.7)
    joined = torch.cat([batch(image), batch(text)], dim=1)
    expected = theirs.blocks[0].attn2(batch(tokens), encoder_hidden_states=joined)[0]
    prompt = PromptTokens(CrossAttentionCache(mx.array(text)), CrossAttentionCache(mx.array(image)))
    found = ours.blocks[0].cross_attn(mx.array(tokens), context_of(ours, prompt))
    assert relative_error(found, expected) <= TOLERANCE


def test_whole_transformer_agrees(case):
    theirs, ours, image_tokens = case
    padded = np.concatenate([CONTEXT, np.zeros((512 - len(CONTEXT), CONTEXT.shape[1]), np.float32)])
    expected = theirs(
        hidden_states=batch(np.concatenate([LATENTS, CONCAT_LATENTS])),
        timestep=torch.tensor([EARLY_TIMESTEP]),
        encoder_hidden_states=batch(padded),
        encoder_hidden_states_image=as_images(image_tokens),
        return_dict=False,
    )[0][0]
    found = forward(ours, EARLY_TIMESTEP, image_tokens, concat_latents=mx.array(CONCAT_LATENTS))
    assert relative_error(found, expected) <= TOLERANCE
