"""Channels beside the noise of the Fun models: each input fills its slot, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.control.fun import SLOTS, FunSource, ReferenceAddOn, encode_slots, keep_channels
from mlx_video.conditioning.frames import frame_mask
from mlx_video.media.resize import to_unit_range
from mlx_video.models.block_context import Pass
from tests.conditioning.encoders import CellEncoder, geometry_of
from tests.fixtures.generators import finish
from tests.models.control_networks import FUN_CONTROL, build_fun

GEOMETRY = geometry_of(32, 16, 9)
VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 32, 3), dtype=np.uint8)
UNIT = to_unit_range(VIDEO)
IMAGE, END_IMAGE = -UNIT[0], -UNIT[8]
MASK = np.zeros((9, 16, 32), bool)
MASK[2:, :8] = True


def reader(frames: np.ndarray):
    return lambda: iter(frames)


def slots(channels: int, encode: CellEncoder | None = None, **given) -> np.ndarray:
    work = encode_slots(encode or CellEncoder(), FunSource(**given), GEOMETRY, channels)
    return np.array(finish(work))


def latents_of(clip: np.ndarray) -> np.ndarray:
    return np.array(finish(CellEncoder()([mx.array(clip.astype(np.float32))], len(clip))))


@pytest.mark.parametrize("channels", SLOTS)
def test_without_any_input_all_channels_are_zeros(channels: int):
    encode = CellEncoder()
    found = slots(channels, encode)
    assert found.shape == (channels, 3, 2, 4)
    assert not found.any()
    assert not encode.clips


def test_a_control_video_stands_before_all_else():
    for channels in (32, 36):
        found = slots(channels, control=reader(VIDEO))
        np.testing.assert_array_equal(found[:16], latents_of(UNIT))
        assert not found[16:].any()


def test_a_first_frame_is_encoded_alone_and_zeros_follow():
    encode = CellEncoder()
    found = slots(32, encode, image=IMAGE)
    np.testing.assert_array_equal(found[16:, :1], latents_of(IMAGE[None]))
    assert not found[:16].any()
    assert not found[16:, 1:].any()
    assert [len(clip) for clip in encode.clips] == [1]
    np.testing.assert_array_equal(slots(16, image=IMAGE), found[16:])


def test_one_frame_alone_has_no_first_frame():
    work = encode_slots(CellEncoder(), FunSource(image=IMAGE), geometry_of(32, 16, 1), 16)
    assert not np.array(finish(work)).any()


@pytest.mark.parametrize("given", [{"image": IMAGE}, {"image": IMAGE, "end_image": END_IMAGE}])
def test_given_frames_stand_in_a_clip_of_grey_behind_their_mask(given: dict):
    encode = CellEncoder()
    found = slots(20, encode, **given)
    kept = (0, 8)[: len(given)]
    np.testing.assert_array_equal(found[:4], np.array(frame_mask(GEOMETRY, kept)))
    (clip,) = encode.clips
    for number, image in zip(kept, given.values(), strict=True):
        np.testing.assert_array_equal(clip[number], image)
    assert not np.delete(clip, kept, axis=0).any()
    np.testing.assert_array_equal(found[4:], latents_of(clip))
    np.testing.assert_array_equal(slots(36, **given)[16:], found)


def test_a_masked_video_is_grey_where_something_is_to_be_made():
    encode = CellEncoder()
    found = slots(20, encode, video=reader(VIDEO), mask=reader(MASK))
    (clip,) = encode.clips
    np.testing.assert_array_equal(clip[~MASK], UNIT[~MASK])
    assert not clip[MASK].any()
    # Frames 2 to 8 are masked in the upper half: channels 1 to 3 of latent frame 1, and all of the next.
    expected = np.ones((4, 3, 2, 4), np.float32)
    expected[1:, 1, 0] = expected[:, 2, 0] = 0
    np.testing.assert_array_equal(found[:4], expected)


def test_a_first_frame_beside_a_masked_video_is_given_whole():
    mask = np.ones_like(MASK)
    found = slots(20, video=reader(VIDEO), mask=reader(mask), image=IMAGE)
    np.testing.assert_array_equal(found, slots(20, image=IMAGE))


def test_each_input_changes_its_own_slot_alone():
    given = {"control": reader(VIDEO), "image": IMAGE, "end_image": END_IMAGE}
    whole = slots(36, **given)
    moved = VIDEO.copy()
    moved[5, 3, 20] ^= 64
    difference = slots(36, **given | {"control": reader(moved)}) != whole
    expected = np.zeros_like(difference)
    expected[:16, 2, 0, 2] = True
    np.testing.assert_array_equal(difference, expected)
    other_end = (slots(36, **given | {"end_image": IMAGE}) != whole).any((2, 3))
    assert not other_end[:20].any()
    assert other_end[20:].tolist() == [[False, False, True]] * 16


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(3))
def test_masks_shrink_as_trilinear_interpolation_does(seed: int):
    torch = pytest.importorskip("torch")
    masks = np.random.default_rng(seed).random((9, 16, 32)) < 0.5
    whole = torch.tensor(masks, dtype=torch.float32)
    slots_of = torch.cat([whole[:1].repeat(4, 1, 1), whole[1:]]).reshape(3, 4, 16, 32).transpose(0, 1)
    parts = [
        torch.nn.functional.interpolate(1 - part[None], (part.shape[1], 2, 4), mode="trilinear")
        for part in (slots_of[:, :1], slots_of[:, 1:])
    ]
    expected = torch.cat(parts, dim=2)[0].numpy()
    np.testing.assert_allclose(np.array(keep_channels(iter(masks))), expected, rtol=0, atol=1e-6)


def test_a_reference_adds_tokens_to_a_pass():
    transformer = build_fun(FUN_CONTROL)
    one = Pass(transformer.project_text(mx.zeros((7, 20)), mx.zeros((257, 1280))))
    added = ReferenceAddOn(mx.zeros((16, 4, 6)))(transformer, one)
    assert len(added.hooks) == 1
    assert replace(added, hooks=()) == one
