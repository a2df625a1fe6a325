"""Which frames of a clip are taken, against musubi-tuner's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.training.data.frame_windows import FrameRule, drop_frames, round_down, round_targets
from tests.training.data.clip_files import draw_frames, numbered_frames, write_video

# Pairs of first frame and length that VideoDataset of musubi-tuner takes of 40 frames.
OF_40 = {
    FrameRule("head", (1, 13, 25)): [(0, 1), (0, 13), (0, 25)],
    FrameRule("chunk", (13, 25)): [(0, 13), (13, 13), (26, 13), (0, 25)],
    FrameRule("slide", (1, 13, 25), stride=10): [
        (0, 1), (10, 1), (20, 1), (30, 1), (0, 13), (10, 13), (20, 13), (0, 25), (10, 25),
    ],
    FrameRule("uniform", (1, 13, 25), sample=4): [
        (0, 1), (13, 1), (26, 1), (39, 1), (0, 13), (9, 13), (18, 13), (27, 13), (0, 25), (5, 25), (10, 25),
        (15, 25),
    ],
}  # fmt: skip
# Numbers of the frames of 40 that its load_video keeps: (rate of the clip, rate of the model) → frames.
KEPT = {
    (30.0, 16.0): [0, 2, 4, 6, 8, 10, 12, 14, 16, 17, 19, 21, 23, 25, 27, 29, 31, 32, 34, 36, 38],
    (24.0, 16.0): [
        0, 2, 3, 5, 7, 8, 9, 11, 12, 14, 16, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30, 32, 33, 35, 36, 38, 39,
    ],
    (25.0, 16.0): [
        0, 2, 4, 5, 7, 8, 10, 11, 13, 15, 16, 18, 19, 21, 22, 24, 25, 27, 29, 30, 32, 33, 35, 36, 38,
    ],
    (60.0, 16.0): [0, 4, 8, 12, 16, 19, 23, 27, 31, 34, 38],
    (29.97, 16.0): [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19, 21, 23, 25, 27, 29, 30, 32, 34, 36, 38],
    (48.0, 16.0): [0, 3, 7, 9, 12, 16, 19, 22, 25, 28, 30, 33, 36, 39],  # its sums of 1/3 fall short
    (15.0, 16.0): [*range(40)],
    (8.0, 16.0): [*range(40)],
}  # fmt: skip
# With at most five frames of the model's rate; a slower clip runs out of numbers, not of frames.
FIRST_FIVE = {
    (30.0, 16.0): [0, 2, 4, 6, 8], (24.0, 16.0): [0, 2, 3, 5, 7], (60.0, 24.0): [0, 3, 5, 8, 11],
    (16.0, 24.0): [0, 1, 2, 3], (8.0, 16.0): [0, 1, 2], (8.0, 24.0): [0, 1],
}  # fmt: skip


@pytest.mark.parametrize("rule", OF_40, ids=lambda rule: rule.extraction)
def test_stretches_are_those_of_musubi_tuner(rule: FrameRule):
    assert [(start, length) for start, length in rule.windows(40)] == OF_40[rule]


def test_full_takes_all_frames_but_a_rest():
    rule = FrameRule("full", max_frames=31)
    assert [rule.windows(count) for count in (20, 25, 35, 1, 4)] == [
        [(0, 17)], [(0, 25)], [(0, 29)], [(0, 1)], [(0, 1)],
    ]  # fmt: skip


def test_clips_that_are_too_short_give_nothing():
    assert FrameRule("head", (13, 25)).windows(12) == []
    assert FrameRule("uniform", (13,), sample=4).windows(12) == []
    assert FrameRule("full").windows(0) == []


def test_equal_stretches_count_once():
    assert FrameRule("uniform", (13,), sample=5).windows(15) == [(0, 13), (1, 13), (2, 13)]


@pytest.mark.parametrize("rates", KEPT)
def test_frames_are_dropped_as_musubi_tuner_drops_them(rates: tuple[float, float]):
    assert [*drop_frames(iter(range(40)), *rates)] == KEPT[rates]


@pytest.mark.parametrize("rates", FIRST_FIVE)
def test_a_limit_counts_in_frames_of_the_model(rates: tuple[float, float]):
    assert [*drop_frames(iter(range(40)), *rates, 5)] == FIRST_FIVE[rates]


def test_lengths_are_rounded_down_to_what_the_vae_packs():
    assert round_targets((1, 25, 45, 46, 47, 3)) == (1, 25, 45)
    assert [round_down(count) for count in (0, 1, 4, 5, 8, 9)] == [0, 1, 1, 5, 5, 9]


def levels(video: SourceVideo, rule: FrameRule, fps: float) -> list[int]:
    return [round(float(frame.mean()) / 6) for frame in rule.take(video, fps)]


def test_the_rate_of_a_file_counts_where_it_is_followed(tmp_path: Path):
    video = open_video(write_video(tmp_path / "a.mp4", numbered_frames(30), fps=30))
    assert levels(video, FrameRule("full", max_frames=9), 15) == [*range(9)]
    assert levels(video, FrameRule("full", max_frames=9, follows_file=True), 15) == [*range(0, 18, 2)]
    assert levels(video, FrameRule("full", max_frames=9, source_fps=30.0), 15) == [*range(0, 18, 2)]


def test_no_more_is_read_of_a_clip_than_is_taken():
    read = []

    def frames():
        for number, frame in enumerate(draw_frames(40)):
            read.append(number)
            yield frame, 1.0

    assert len([*FrameRule("head", (5, 13)).take(SourceVideo("a", None, frames), 16)]) == 13
    assert len(read) <= 14
