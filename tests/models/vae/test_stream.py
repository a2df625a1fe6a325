"""A VAE's layers remember the frames of one clip, and no more of them than they need."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models.vae.layers import CausalConv3d, ResidualBlock, Upsample
from mlx_video.models.vae.stream import StreamState, run_stages
from tests.models.vae.tiny_vae import ROUNDING, draw, largest_difference, push_whole, randomise


def test_states_of_two_clips_do_not_mix():
    block = randomise(ResidualBlock(4, 4))
    first, second = draw(1, 3, 2, 2, 4), draw(1, 3, 2, 2, 4, seed=1)
    state, other = StreamState(), StreamState()
    found = []
    for mine, theirs in zip(mx.split(first, 3, axis=1), mx.split(second, 3, axis=1), strict=True):
        found.append(block(mine, state))
        block(theirs, other)
    assert largest_difference(mx.concatenate(found, axis=1), push_whole(block, first)) <= ROUNDING


def test_stream_refuses_frames_of_another_size():
    state = StreamState()
    state.admit(mx.zeros((1, 1, 4, 6, 3)))
    state.admit(mx.zeros((1, 7, 4, 6, 3)))
    with pytest.raises(ValueError, match=r"\[1, 6, 4, 3\].*\[1, 4, 6, 3\].*new StreamState"):
        state.admit(mx.zeros((1, 1, 6, 4, 3)))


def test_kept_frames_do_not_hold_the_clip_they_were_cut_from():
    layer, state = CausalConv3d(16, 1), StreamState()
    frame_bytes = 64 * 64 * 16 * 4
    before = mx.get_active_memory()
    clip = mx.ones((1, 20, 64, 64, 16))
    mx.eval(clip)
    list(run_stages([[layer]], clip, (20,), state))
    del clip
    # Two frames, and the page or two that every allocation is rounded up to.
    assert mx.get_active_memory() - before <= 2 * frame_bytes + 2**16
    assert state.nbytes() == 2 * frame_bytes


@settings(deadline=None, max_examples=25)
@given(parts=st.lists(st.integers(1, 4), min_size=2, max_size=2), frames=st.integers(1, 6))
def test_stages_give_the_same_whatever_parts_they_take(parts, frames):
    stages = [
        [randomise(ResidualBlock(2, 4)), randomise(Upsample(4, 2, doubles_time=True))],
        [randomise(ResidualBlock(2, 2))],
    ]
    x = draw(1, frames, 2, 2, 2)
    found = mx.concatenate(list(run_stages(stages, x, parts, StreamState())), axis=1)
    whole = mx.concatenate(list(run_stages(stages, x, (99, 99), StreamState())), axis=1)
    assert found.shape[1] == 2 * frames - 1
    assert largest_difference(found, whole) <= ROUNDING


def test_a_part_passes_all_stages_before_the_next_begins():
    order = []

    def record(name):
        def layer(x, state):
            order.append((name, x.shape[1]))
            return x

        return layer

    list(run_stages([[record("low")], [record("high")]], mx.zeros((1, 3, 1, 1, 1)), (2, 1), StreamState()))
    assert order == [("low", 2), ("high", 1), ("high", 1), ("low", 1), ("high", 1)]
