"""Rotary positions along three axes."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.models.rope import build_rotary_table, rotate, split_axes, token_angles
from mlx_video.models.token_layout import Segment, TokenLayout, video_layout, video_segment

GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
HEAD_DIMS = st.sampled_from([16, 32, 64, 128])


def random_heads(grid: tuple[int, int, int], head_dim: int) -> mx.array:
    return mx.random.normal((math.prod(grid), 2, head_dim), key=mx.random.key(3))


@pytest.mark.parametrize(
    ("head_dim", "expected"), [(128, (44, 42, 42)), (32, (12, 10, 10)), (96, (32, 32, 32))]
)
def test_time_takes_what_rows_and_columns_leave(head_dim, expected):
    assert split_axes(head_dim) == expected


def test_each_axis_starts_anew_with_its_own_frequencies():
    step_in_time, step_in_rows, step_in_columns = (
        token_angles(video_segment(grid), 128)[1] for grid in [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
    )
    np.testing.assert_allclose(step_in_time[:3], [1, 0.65793322, 0.43287613], atol=5e-9)
    np.testing.assert_allclose(step_in_rows[22:25], [1, 0.64494668, 0.41595622], atol=5e-9)
    np.testing.assert_allclose(step_in_columns[43:46], [1, 0.64494668, 0.41595622], atol=5e-9)
    assert step_in_time[21] == pytest.approx(1.51991e-4, abs=5e-10)
    assert step_in_columns[63] == pytest.approx(1.55052e-4, abs=5e-10)


def test_an_axis_turns_only_its_own_channels():
    assert not token_angles(video_segment((2, 1, 1)), 128)[1, 22:].any()
    assert not token_angles(video_segment((1, 2, 1)), 128)[1, :22].any()
    assert not token_angles(video_segment((1, 2, 1)), 128)[1, 43:].any()
    assert not token_angles(video_segment((1, 1, 2)), 128)[1, :43].any()


def test_tokens_are_time_major():
    angles = token_angles(video_segment((2, 3, 4)), 128)
    assert angles[(1 * 3 + 2) * 4 + 3, [0, 22, 43]].tolist() == [1, 2, 3]


def test_neighbouring_channels_turn_as_a_pair():
    x = mx.zeros((2, 1, 128))
    x[:, :, 0] = 1.0
    turned = np.array(rotate(x, build_rotary_table(video_layout((2, 1, 1)), 128)))[1, 0]
    np.testing.assert_allclose(turned[:4], [math.cos(1), math.sin(1), 0, 0], atol=1e-7)


@settings(deadline=None, max_examples=25)
@given(GRIDS, HEAD_DIMS)
def test_rotation_keeps_the_length_of_every_pair(grid, head_dim):
    x = random_heads(grid, head_dim)
    before, after = (
        np.linalg.norm(np.array(values).reshape(-1, 2), axis=1)
        for values in (x, rotate(x, build_rotary_table(video_layout(grid), head_dim)))
    )
    # cos² + sin² of float32 values is 1 within two roundings.
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_the_first_token_is_left_alone():
    x = random_heads((2, 3, 4), 64)
    np.testing.assert_array_equal(
        np.array(rotate(x, build_rotary_table(video_layout((2, 3, 4)), 64))[0]), np.array(x[0])
    )


def test_scores_depend_on_distance_alone():
    table = build_rotary_table(video_layout((6, 1, 1)), 64)
    x = mx.broadcast_to(mx.random.normal((1, 1, 64), key=mx.random.key(1)), (6, 1, 64))
    turned = np.array(rotate(x, table))[:, 0]
    scores = turned @ turned.T
    np.testing.assert_allclose(scores[0, 2], scores[3, 5], rtol=1e-5)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_half_precision_is_rounded_once(dtype):
    x = random_heads((2, 3, 4), 64).astype(dtype)
    table = build_rotary_table(video_layout((2, 3, 4)), 64)
    turned = rotate(x, table)
    assert turned.dtype == dtype
    assert mx.array_equal(turned, rotate(x.astype(mx.float32), table).astype(dtype)).item()


def test_positions_beyond_the_trained_range_are_refused():
    assert token_angles(video_segment((1, 1, 1024)), 16).shape == (1024, 8)
    with pytest.raises(ValueError, match="1024"):
        token_angles(video_segment((1, 1, 1025)), 16)


def test_segments_lie_where_they_say():
    layout = TokenLayout((video_segment((1, 2, 2), (30, 0, 0)), video_segment((2, 2, 2))))
    angles = token_angles(video_segment((31, 2, 2)), 64)
    expected = np.concatenate([angles[30 * 4 :], angles[: 2 * 4]])
    np.testing.assert_array_equal(
        np.array(build_rotary_table(layout, 64).cos)[:, 0], np.cos(expected).astype(np.float32)
    )


def test_positions_may_be_negative_or_between_two_tokens():
    segment = Segment((-3.0, 0.5), (0.0,), (0.0,))
    np.testing.assert_array_equal(token_angles(segment, 64)[:, 0], [-3.0, 0.5])
    with pytest.raises(ValueError, match="1024"):
        token_angles(Segment((-1024.0,), (0.0,), (0.0,)), 64)
