"""LongCat-Video's transformer agrees with its port in DiffSynth-Studio in float32, under its authors' names.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and errors grow through the blocks.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import Pass
from mlx_video.models.longcat.transformer import LongCatTransformer
from mlx_video.models.token_layout import TokenLayout, video_layout
from mlx_video.weights.names.longcat_names import AUTHORS_RULES, longcat_tensors
from mlx_video.weights.rules import apply_rules
from tests.models.longcat_networks import LONGCAT, blocks_of, load_longcat
from tests.models.networks import at, relative_error
from tests.parity.diffsynth_longcat import build_longcat
from tests.parity.golden import fill

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
# The authors compute sinusoid and rotary angles in float32, which is exact to 6e-8 only at early timesteps.
EARLY_TIMESTEP = 1.0
LATENTS = fill((16, 5, 4, 6), 2001, 1.7)
GRID = (5, 2, 3)
CONTEXT = fill((9, LONGCAT.text_dim), 2002)


@pytest.fixture(scope="module")
def theirs():
    return build_longcat(LONGCAT)


@pytest.fixture(scope="module")
def official(theirs):
    return {name: values.numpy() for name, values in theirs.state_dict().items()}


@pytest.fixture(scope="module")
def ours(official) -> LongCatTransformer:
    return load_longcat(official)


def run_theirs(theirs, latents, timesteps, text=CONTEXT, **options):
    """Their velocity: the network's output with its sign turned."""
    padded = np.concatenate([text, fill((512 - len(text), text.shape[1]), 2003)])  # junk behind the words
    mask = torch.zeros(1, 512, dtype=torch.int64)
    mask[:, : len(text)] = 1
    found = theirs(
        torch.tensor(latents)[None],
        torch.tensor(np.array(timesteps, np.float32))[None],
        torch.tensor(padded)[None, None],
        mask,
        **options,
    )
    return -(found[0] if not isinstance(found, tuple) else found[0][0]).numpy()


def run_ours(ours, latents, timestep, layout, text=CONTEXT, attention=None):
    options = {} if attention is None else {"attention": attention}
    one = Pass(ours.project_text(mx.array(text)), **options)
    (found,) = ours.predict(mx.array(latents), at(timestep), [one], layout=layout)
    return np.array(found)


def test_the_tensors_are_the_authors(theirs, official):
    respelt = {str(apply_rules(name, AUTHORS_RULES)[0]): value.shape for name, value in official.items()}
    assert respelt == longcat_tensors(LONGCAT)


def test_a_video_of_noise_alone_agrees(theirs, ours):
    expected = run_theirs(theirs, LATENTS, [EARLY_TIMESTEP] * 5)
    assert relative_error(run_ours(ours, LATENTS, EARLY_TIMESTEP, video_layout(GRID)), expected) <= TOLERANCE


@pytest.mark.parametrize("clean", [1, 2])
def test_clean_frames_before_the_noise_agree(theirs, ours, clean):
    timesteps = [0.0] * clean + [EARLY_TIMESTEP] * (5 - clean)
    expected = run_theirs(theirs, LATENTS, timesteps, num_cond_latents=clean)
    found = run_ours(ours, LATENTS, EARLY_TIMESTEP, video_layout(GRID, clean))
    assert relative_error(found, expected) <= TOLERANCE


def test_timesteps_frame_by_frame_agree(theirs, ours):
    """None of the frames is clean: each has noise of its own level."""
    timesteps = [1.0, 2.0, 0.5, 3.0, 1.5]
    (segment,) = video_layout(GRID).segments
    segments = tuple(
        replace(segment, times=(time,), timestep=t) for time, t in zip(segment.times, timesteps, strict=True)
    )
    found = run_ours(ours, LATENTS, 9.0, TokenLayout(segments))
    assert relative_error(found, run_theirs(theirs, LATENTS, timesteps)) <= TOLERANCE


def test_time_features_agree(theirs, ours):
    values = [0.0, 0.5, 1.0, 2.0]
    expected = theirs.t_embedder(torch.tensor(values), torch.float32)
    for value, row in zip(values, expected, strict=True):
        found = ours.embed_time(value, video_layout((1, 1, 1))).embedding[0]
        assert relative_error(found, row) <= TOLERANCE


def test_text_features_agree(theirs, ours):
    expected = theirs.y_embedder(torch.tensor(CONTEXT)[None, None])[0, 0]
    found = ours.project_text(mx.array(CONTEXT)).text.tokens
    assert relative_error(found[: len(CONTEXT)], expected) <= TOLERANCE
    assert not np.array(found[len(CONTEXT) :]).any()


def test_each_leaf_of_a_block_agrees(theirs, ours):
    block, our_block = theirs.blocks[0], ours.blocks[0]
    tokens, text = fill((30, LONGCAT.dim), 2004), fill((12, LONGCAT.dim), 2005)
    context = blocks_of(ours, video_layout(GRID), mx.array(text), EARLY_TIMESTEP)
    x, y = torch.tensor(tokens)[None], torch.tensor(text)[None]
    pairs = {
        "self-attention": (our_block.self_attn(mx.array(tokens), context), block.attn(x, GRID)),
        "cross-attention": (our_block.cross_attn(mx.array(tokens), context), block.cross_attn(x, y, [12])),
        "feed-forward": (our_block.ffn(mx.array(tokens)), block.ffn(x)),
        "head": (
            -ours.head(mx.array(tokens), context.time),
            theirs.final_layer(x, torch.tensor(np.array(context.time.embedding))[None].repeat(1, 5, 1), GRID),
        ),
    }
    errors = {name: relative_error(found, expected[0]) for name, (found, expected) in pairs.items()}
    assert max(errors.values()) <= TOLERANCE, errors
