"""VACE's context: parts of the video, pixels of the mask, references; each input changes what it should."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.clips import clip_with_frames
from mlx_video.conditioning.control.vace import (
    VACEAddOn,
    VACESource,
    encode_vace_context,
    mask_channels,
    sampled_frames,
)
from mlx_video.media.resize import to_unit_range
from mlx_video.models.block_context import Pass
from tests.conditioning.encoders import CellEncoder, geometry_of
from tests.fixtures.generators import finish
from tests.models.control_networks import build_vace

GEOMETRY = geometry_of(32, 16, 9)
SHAPE = (16, 3, 2, 4)
VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 32, 3), dtype=np.uint8)
LEFT = np.zeros((9, 16, 32), bool)
LEFT[:, :, :16] = True
REFERENCES = [to_unit_range(VIDEO[0]), to_unit_range(VIDEO[5])]


def reader(frames: np.ndarray):
    return lambda: iter(frames)


def context_of(source: VACESource, encode: CellEncoder | None = None) -> np.ndarray:
    return np.array(finish(encode_vace_context(encode or CellEncoder(), source, GEOMETRY)))


def masked(mask: np.ndarray = LEFT, **changes) -> VACESource:
    return replace(VACESource(reader(VIDEO), reader(mask)), **changes)


def latents_of(clip: np.ndarray) -> np.ndarray:
    encode = CellEncoder()
    return np.array(finish(encode([mx.array(clip.astype(np.float32))], len(clip))))


# Parts of the video


def test_a_video_without_a_mask_may_change_everywhere():
    context = context_of(VACESource(reader(VIDEO)))
    assert context.shape == (96, 3, 2, 4)
    assert not context[:16].any()
    np.testing.assert_array_equal(context[16:32], latents_of(to_unit_range(VIDEO)))
    assert (context[32:] == 1).all()


def test_what_is_outside_the_mask_stays_and_what_is_inside_is_grey():
    encode = CellEncoder()
    context = context_of(masked(), encode)
    stays, changes = encode.clips
    np.testing.assert_array_equal(stays[:, :, 16:], to_unit_range(VIDEO)[:, :, 16:])
    assert not stays[:, :, :16].any()
    assert not changes.any()
    assert (context[32:, :, :, :2] == 1).all()
    assert not context[32:, :, :, 2:].any()


def test_repainting_shows_the_pixels_under_the_mask():
    encode = CellEncoder()
    context_of(masked(repaints=True), encode)
    stays, changes = encode.clips
    np.testing.assert_array_equal(stays + changes, to_unit_range(VIDEO))
    np.testing.assert_array_equal(changes[:, :, :16], to_unit_range(VIDEO)[:, :, :16])


def test_a_mask_of_zeros_keeps_the_video():
    context = context_of(masked(np.zeros_like(LEFT)))
    np.testing.assert_array_equal(context[:16], latents_of(to_unit_range(VIDEO)))
    assert not context[16:].any()


def test_without_any_input_everything_is_made_of_grey():
    encode = CellEncoder()
    context = context_of(VACESource(), encode)
    assert len(encode.clips) == 1
    assert not context[:32].any()
    assert (context[32:] == 1).all()


def test_a_mask_without_a_video_lies_over_grey():
    context = context_of(VACESource(mask=reader(LEFT)))
    assert not context[:32].any()
    np.testing.assert_array_equal(context[32:], context_of(masked())[32:])


# What a change of an input changes


def changed(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one != other


def test_pixels_outside_the_mask_change_what_stays_in_their_cell_alone():
    moved = VIDEO.copy()
    moved[6, 3, 20] ^= 64
    difference = changed(context_of(masked()), context_of(replace(masked(), video=reader(moved))))
    expected = np.zeros_like(difference)
    expected[:16, 2, 0, 2] = True
    np.testing.assert_array_equal(difference, expected)


def test_pixels_under_the_mask_change_nothing_unless_they_are_repainted():
    moved = VIDEO.copy()
    moved[6, 3, 4] ^= 64
    assert not changed(context_of(masked()), context_of(masked(video=reader(moved)))).any()
    repainted = [context_of(masked(repaints=True, video=reader(video))) for video in (VIDEO, moved)]
    expected = np.zeros((96, 3, 2, 4), bool)
    expected[16:32, 2, 0, 0] = True
    np.testing.assert_array_equal(changed(*repainted), expected)


def test_a_reference_changes_its_own_frame_alone():
    both = context_of(masked(references=REFERENCES))
    other = context_of(masked(references=[REFERENCES[0], -REFERENCES[1]]))
    assert np.argwhere(changed(both, other).any((0, 2, 3))).tolist() == [[1]]


# References


def test_references_stand_before_the_video_in_the_order_given():
    context = context_of(masked(references=REFERENCES))
    assert context.shape == (96, 5, 2, 4)
    for number, picture in enumerate(REFERENCES):
        np.testing.assert_array_equal(context[:16, number : number + 1], latents_of(picture[None]))
    assert not context[16:, :2].any()
    np.testing.assert_array_equal(context[:, 2:], context_of(masked()))


def test_each_reference_is_encoded_alone():
    encode = CellEncoder()
    context_of(masked(references=REFERENCES), encode)
    assert [len(clip) for clip in encode.clips] == [9, 9, 1, 1]


# The mask's pixels


@pytest.mark.parametrize(
    ("num_frames", "expected"),
    [
        (1, [0]),
        (5, [1, 3]),
        (9, [1, 4, 7]),
        (17, [1, 5, 8, 11, 15]),
        (49, [1, 5, 9, 13, 16, 20, 24, 28, 32, 35, 39, 43, 47]),
        (
            81,
            [1, 5, 9, 13, 17, 21, 25, 28, 32, 36, 40, 44, 48, 52, 55, 59, 63, 67, 71, 75, 79],
        ),
    ],
)
def test_one_frame_stands_for_the_mask_of_a_latent_frame(num_frames: int, expected: list[int]):
    assert sampled_frames(geometry_of(16, 16, num_frames)) == expected


def test_each_pixel_of_a_cell_is_a_channel():
    masks = np.random.default_rng(1).random((9, 16, 32)) < 0.5
    channels = np.array(mask_channels(iter(masks), GEOMETRY))
    assert channels.shape == (64, 3, 2, 4)
    for row, column, y, x in [(0, 0, 0, 0), (3, 5, 1, 2), (7, 7, 1, 3)]:
        for frame, number in enumerate((1, 4, 7)):
            assert channels[8 * row + column, frame, y, x] == masks[number, 8 * y + row, 8 * x + column]


@pytest.mark.parity
@pytest.mark.parametrize("num_frames", [1, 5, 81, 121])
def test_the_mask_agrees_with_the_official_operations(num_frames: int):
    torch = pytest.importorskip("torch")
    geometry = geometry_of(32, 16, num_frames)
    masks = np.random.default_rng(2).random((num_frames, 16, 32)) < 0.5
    values = torch.tensor(masks, dtype=torch.float32).reshape(num_frames, 2, 8, 4, 8)
    values = values.permute(2, 4, 0, 1, 3).reshape(1, 64, num_frames, 2, 4)
    size = (geometry.latent_shape[1], 2, 4)
    expected = torch.nn.functional.interpolate(values, size, mode="nearest-exact")[0]
    np.testing.assert_array_equal(np.array(mask_channels(iter(masks), geometry)), expected)


# Frames that are given


def test_given_frames_stay_and_all_others_are_made():
    read_frames, read_masks = clip_with_frames({0: VIDEO[0], 8: VIDEO[1]}, GEOMETRY)
    frames, masks = np.stack([*read_frames()]), np.stack([*read_masks()])
    assert frames.shape == VIDEO.shape
    np.testing.assert_array_equal(frames[[0, 8]], VIDEO[:2])
    assert (frames[1:8] == 128).all()
    assert not masks[[0, 8]].any()
    assert masks[1:8].all()


def test_given_frames_show_in_what_stays_and_the_rest_is_grey():
    encode = CellEncoder()
    video, mask = clip_with_frames({0: VIDEO[0]}, GEOMETRY)
    context = context_of(VACESource(video, mask), encode)
    np.testing.assert_array_equal(encode.clips[0][0], to_unit_range(VIDEO[0]))
    assert not encode.clips[0][1:].any()
    assert not encode.clips[1].any()
    # No latent frame takes the mask of the first frame, so it says that all is to be made.
    assert (context[32:] == 1).all()


# The add-on


def test_vace_acts_in_a_pass_unless_its_scale_is_zero():
    transformer = build_vace()
    one = Pass(transformer.project_text(mx.zeros((7, 20))))
    context = mx.zeros((96, 3, 4, 6))
    assert VACEAddOn(context, (0.0,))(transformer, one) is one
    assert len(VACEAddOn(context, (0.5,))(transformer, one).hooks) == 1
    assert len(VACEAddOn(context, (0.5, 0.0))(transformer, one).hooks) == 1
    with pytest.raises(ValueError, match="3 VACE scales for 2 VACE blocks"):
        VACEAddOn(context, (1.0, 1.0, 1.0))(transformer, one)
