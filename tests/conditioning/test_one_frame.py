"""One picture at a chosen moment: its controls are given at theirs, each encoded alone."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.control.one_frame import OneFrame, encode_one_frame
from mlx_video.conditioning.control.speed import SpeedAddOn
from mlx_video.errors import RequestError
from mlx_video.models.block_context import CrossAttentionCache, Pass, PromptTokens
from tests.conditioning.encoders import CellEncoder
from tests.fixtures.generators import finish

CONTROLS = [np.full((16, 32, 3), value, np.float32) for value in (0.25, -0.5)]


def test_pictures_are_paired_with_their_indices_not_with_the_sorted_ones():
    one = OneFrame(1, (10, 0))
    assert one.times == (0, 1, 10)
    assert one.target == 1
    encode = CellEncoder()
    found = np.array(finish(encode_one_frame(encode, one, CONTROLS)))
    assert found.shape == (20, 3, 2, 4)
    assert [found[:4, frame].mean() for frame in range(3)] == [1, 0, 1]
    assert [found[4:, frame].mean() for frame in range(3)] == [-0.5, 0, 0.25]
    assert [len(clip) for clip in encode.clips] == [1, 1, 1]


def test_a_target_may_lie_before_its_control():
    one = OneFrame(0, (4,))
    assert (one.times, one.target) == ((0, 4), 0)


def test_one_control_changes_its_own_frame_alone():
    one = OneFrame(1, (0, 2))
    whole, other = (
        np.array(finish(encode_one_frame(CellEncoder(), one, controls)))
        for controls in (CONTROLS, [CONTROLS[0], -CONTROLS[1]])
    )
    assert (whole != other).any((0, 2, 3)).tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("target", "controls", "message"),
    [
        (1, (1,), "control_index: 1 with --target-index 1: every picture needs a time of its own"),
        (1, (0, 0), "control_index: 0, 0 with"),
        (1024, (0,), "target_index: 1024: outside of 0 to 1023"),
        (1, (-1,), "control_index: -1: outside of 0 to 1023"),
    ],
)
def test_times_that_cannot_be_are_refused(target, controls, message):
    with pytest.raises(RequestError, match=message):
        OneFrame(target, controls)


def test_another_number_of_pictures_is_refused():
    with pytest.raises(RequestError, match="control_image: 2 pictures for 1 numbers of --control-index"):
        finish(encode_one_frame(CellEncoder(), OneFrame(1, (0,)), CONTROLS))


def test_a_motion_bucket_adds_to_what_is_added_already():
    one = Pass(PromptTokens(CrossAttentionCache(mx.zeros((2, 3)))))
    add_on = SpeedAddOn(mx.full((6, 3), 2.0))
    once = add_on(None, one)
    assert mx.array_equal(once.added_modulation, mx.full((6, 3), 2.0))
    assert mx.array_equal(add_on(None, once).added_modulation, mx.full((6, 3), 4.0))
