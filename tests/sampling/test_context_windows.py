"""Context windows: which frames each covers, and how they are weighed."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.sampling.context_windows import SCHEDULES, WEIGHTINGS, ContextWindows, most_windows


def starts_of(count: int, index: int = 0, **options) -> list[int]:
    return [window[0] for window in ContextWindows(**options).of_step(index, count)]


@pytest.mark.parametrize(
    ("count", "starts"), [(41, [0, 17, 20]), (61, [0, 17, 34, 40]), (81, [0, 17, 34, 51, 60]), (38, [0, 17])]
)
def test_static_windows_begin_where_published(count: int, starts: list[int]):
    assert starts_of(count, size=21, overlap=4) == starts
    assert starts_of(count, 7, size=21, overlap=4) == starts


@pytest.mark.parametrize(
    ("count", "work", "attention"), [(41, 1.02, 0.79), (61, 0.69, 0.47), (81, 0.52, 0.34)]
)
def test_windows_save_the_published_work(count: int, work: float, attention: float):
    """Work of the windows by that of one forward over all frames, of 14B at 832x480."""
    blocks, dim, hidden = 40, 5120, 13824

    def operations(frames: int) -> np.ndarray:
        tokens = frames * 30 * 52
        products = 2 * blocks * tokens * (6 * dim**2 + 2 * dim * hidden) + 4 * blocks * 512 * dim * tokens
        return np.array([products + 4 * blocks * dim * tokens**2, 4 * blocks * dim * tokens**2])

    windows = ContextWindows(21, 4).of_step(0, count)
    found = sum(operations(len(window)) for window in windows) / operations(count)
    assert found == pytest.approx([work, attention], abs=0.006)


@pytest.mark.parametrize(
    ("index", "starts"),
    [(0, [0, 6, 12, 18]), (1, [10, 16, 2, 8]), (2, [5, 11, 17, 3]), (3, [15, 1, 7, 13])],
)
def test_looped_windows_begin_at_bit_reversed_steps(index: int, starts: list[int]):
    windows = ContextWindows(8, 2, "looped")
    assert [window[0] for window in windows.of_step(index, 20)] == starts
    assert (18, 19, 0, 1, 2, 3, 4, 5) in windows.of_step(0, 20)


def test_uniform_windows_end_with_the_video_in_place_of_going_on_at_its_start():
    windows = ContextWindows(8, 2, "uniform")
    assert [window[0] for window in windows.of_step(0, 20)] == [0, 6, 12]
    # From 10, 16 and 2: the one from 16 is moved to the end, and the first frames get a window of their own.
    assert [window[0] for window in windows.of_step(1, 20)] == [10, 12, 0, 2]
    assert most_windows(windows, 20, 2) == 4


def test_levels_add_windows_of_every_second_and_fourth_frame():
    # 23 frames of 6: levels 1, 2 and 4, of which the last reaches over 21 frames.
    windows = ContextWindows(6, 2, "looped", levels=9)
    assert windows.steps_between(23) == [1, 2, 4]
    assert windows.steps_between(20) == [1, 2]  # four times the window would be longer than the video
    assert ContextWindows(6, 2, "looped", levels=2).steps_between(23) == [1, 2]
    first = windows.of_step(0, 23)
    assert [window[0] for window in first] == [0, 4, 8, 12, 16, 20, 0, 10, 20, 0, 22]
    assert first[6:9] == [(0, 2, 4, 6, 8, 10), (10, 12, 14, 16, 18, 20), (20, 22, 1, 3, 5, 7)]
    assert first[9:] == [(0, 4, 8, 12, 16, 20), (22, 3, 7, 11, 15, 19)]
    # Half of the video on, and half of a step: round(11.5) is 12, with 0, 1 and 2 for the levels.
    second = windows.of_step(1, 23)
    assert [window[0] for window in second] == [12, 16, 20, 1, 5, 9, 13, 0, 10, 14]


def test_uniform_windows_of_levels_are_moved_to_the_end_with_their_steps():
    windows = ContextWindows(6, 2, "uniform", levels=2)
    found = windows.of_step(0, 23)
    assert [window[0] for window in found[:6]] == [0, 4, 8, 12, 16, 17]
    assert found[6:] == [(0, 2, 4, 6, 8, 10), (10, 12, 14, 16, 18, 20), (12, 14, 16, 18, 20, 22)]


def test_every_step_of_uniform_windows_covers_all_frames():
    """As published, those of the third would leave out frame 1."""
    found = ContextWindows(5, 2, "uniform", levels=2).of_step(2, 11)
    assert found == [(3, 4, 5, 6, 7), (6, 7, 8, 9, 10), (0, 1, 2, 3, 4), (2, 4, 6, 8, 10), (0, 2, 4, 6, 8)]


def test_a_video_within_a_window_is_one_window():
    for schedule in SCHEDULES:
        assert ContextWindows(5, 2, schedule).of_step(3, 5) == [(0, 1, 2, 3, 4)]
        assert ContextWindows(9, 2, schedule).of_step(3, 5) == [(0, 1, 2, 3, 4)]


@settings(deadline=None)
@given(st.data())
def test_windows_cover_every_frame_with_weight_and_none_is_longer_than_asked(data):
    size = data.draw(st.integers(1, 24))
    overlap = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(1, 90))
    index = data.draw(st.integers(0, 60))
    schedule, weighting = data.draw(st.sampled_from([*SCHEDULES])), data.draw(st.sampled_from([*WEIGHTINGS]))
    levels = data.draw(st.integers(1, 4))
    windows = ContextWindows(size, overlap, schedule, weighting, levels)
    found = windows.of_step(index, count)
    assert {frame for window in found for frame in window} == set(range(count))
    for window in found:
        assert len(window) == min(size, count)
        steps = {(later - earlier) % count for earlier, later in pairwise(window)}
        assert len(steps) <= 1
        assert steps <= {1, *([] if schedule == "static" else windows.steps_between(count))}
        assert len(set(window)) == len(window)
        weights = windows.weights(window, count)
        assert len(weights) == len(window)
        assert min(weights) > 0


@pytest.mark.parametrize(
    ("length", "weights"),
    [(5, [1, 2, 3, 2, 1]), (6, [1, 2, 3, 3, 2, 1]), (1, [1])],
)
def test_a_pyramid_rises_to_the_middle(length: int, weights: list[int]):
    assert ContextWindows(length, 0).weights(tuple(range(length)), 99) == weights


@pytest.mark.parametrize("window", [(4, 5, 6, 7, 8), (4, 6, 8, 10, 12), (8, 9, 0, 1, 2)])
def test_relative_weights_fall_to_both_ends(window: tuple[int, ...]):
    count = 10 if window[0] == 8 else 20
    weights = ContextWindows(5, 1, weighting="relative").weights(window, count)
    assert weights == pytest.approx([0.01, 0.5, 1, 0.5, 0.01], abs=2e-3)
    span = 8 if window[1] == 6 else 4
    assert weights[1] == pytest.approx(1 - (span / 4) / ((span + 0.01) / 2))


def test_ramps_stand_at_inner_edges_alone():
    windows = ContextWindows(6, 2, weighting="linear")
    assert windows.weights((0, 1, 2, 3, 4, 5), 14) == [1, 1, 1, 1, 0.75, 0.25]
    assert windows.weights((4, 5, 6, 7, 8, 9), 14) == [0.25, 0.75, 1, 1, 0.75, 0.25]
    assert windows.weights((8, 9, 10, 11, 12, 13), 14) == [0.25, 0.75, 1, 1, 1, 1]
