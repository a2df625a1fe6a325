"""Where the frames before a clip of speech lie among the tokens: near ones densely, far ones coarsely."""

from __future__ import annotations

from mlx_video.models.speech.motion_tokens import motion_segments


def test_coarser_frames_lie_farther_back_and_span_the_same_picture():
    near, middle, far = motion_segments(16, 16)
    assert [segment.times for segment in (near, middle, far)] == [(-1,), (-3,), (-19, -14, -9, -4)]
    assert near.rows == near.columns == (0, 1, 2, 3, 4, 5, 6, 7)
    assert middle.rows == middle.columns == (0, 2, 4, 7)
    assert far.rows == far.columns == (0, 7)
    assert {(segment.timestep, segment.is_output) for segment in (near, middle, far)} == {(0.0, False)}


def test_a_small_video_has_no_coarse_tokens():
    assert [len(segment.rows) for segment in motion_segments(4, 4)] == [2, 1]
    assert [len(segment.rows) for segment in motion_segments(2, 2)] == [1]
