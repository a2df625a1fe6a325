"""Images become clips, latents and masks, in the layout that each kind of model was trained on."""

from __future__ import annotations

from collections.abc import Iterable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.conditioning.frames import (
    Encoding,
    clip_chunks,
    concat_first_and_last_frame,
    concat_first_frame,
    cut_images,
    fit_frame,
    frame_mask,
    hold_first_frame,
    impose_first_frames,
)
from mlx_video.events import FramesEncoded
from mlx_video.geometry import VideoGeometry, measure
from mlx_video.media.fit import fit_frame as fit_picture
from mlx_video.media.resize import cover_lanczos, resize_bicubic, to_unit_range
from tests.fixtures.generators import finish

STRIDE, PATCH = (4, 8, 8), (1, 2, 2)


def geometry_of(width: int, height: int, num_frames: int, stride: int = 8, z_dim: int = 16) -> VideoGeometry:
    return measure(width, height, num_frames, z_dim=z_dim, stride=(4, stride, stride), patch_size=PATCH)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class RecordingEncoder:
    """Keeps the clip it is given; its latents are the mean colour of each group of frames."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []

    def __call__(self, frames: Iterable[mx.array], num_frames: int) -> Encoding[mx.array]:
        self.chunks = [np.array(chunk) for chunk in frames]
        yield FramesEncoded(len(self.clip), num_frames)
        groups = [self.clip[:1], *np.split(self.clip[1:], range(4, len(self.clip) - 1, 4))]
        colours = np.stack([group.mean((0, 1, 2)) for group in groups if len(group)], axis=1)
        height, width = self.clip.shape[1] // 8, self.clip.shape[2] // 8
        return mx.array(np.broadcast_to(colours[..., None, None], (*colours.shape, height, width)))

    @property
    def clip(self) -> np.ndarray:
        return np.concatenate(self.chunks)


def test_a_clip_is_the_first_frame_and_grey_ones():
    encode, image, geometry = RecordingEncoder(), picture(62, 100), geometry_of(96, 48, 9)
    finish(concat_first_frame(encode, [image], geometry))
    assert encode.clip.shape == (9, 48, 96, 3)
    np.testing.assert_array_equal(encode.clip[0], resize_bicubic(to_unit_range(image), 48, 96))
    assert not encode.clip[1:].any()
    assert [len(chunk) for chunk in encode.chunks] == [1, 4, 4]


def test_a_clip_between_two_images_ends_in_the_second():
    encode, geometry = RecordingEncoder(), geometry_of(96, 48, 9)
    first, last = picture(62, 100), picture(62, 100, seed=1)
    finish(concat_first_and_last_frame(encode, [first, last], geometry))
    assert encode.clip.shape == (9, 48, 96, 3)
    np.testing.assert_array_equal(encode.clip[0], resize_bicubic(to_unit_range(first), 48, 96))
    assert not encode.clip[1:8].any()
    np.testing.assert_array_equal(encode.clip[8], resize_bicubic(to_unit_range(last), 48, 96))


def test_grey_frames_are_one_array_however_long_the_clip():
    first = mx.zeros((1, 2, 2, 3)) + 0.5
    chunks = list(clip_chunks(81, first))
    assert sum(len(chunk) for chunk in chunks) == 81
    assert len({id(chunk) for chunk in chunks[1:]}) == 1


def test_a_clip_of_one_frame_is_the_image_and_has_no_last_frame():
    first = mx.zeros((1, 2, 2, 3))
    assert [chunk.shape for chunk in clip_chunks(1, first)] == [(1, 2, 2, 3)]
    with pytest.raises(ValueError, match="1 frame: there is no last one"):
        list(clip_chunks(1, first, first))


def test_the_mask_of_a_first_frame_is_one_on_the_first_latent_frame_only():
    mask = np.array(frame_mask(geometry_of(96, 48, 81)))
    assert mask.shape == (4, 21, 6, 12)
    assert mask.dtype == np.float32
    assert (mask[:, 0] == 1).all()
    assert not mask[:, 1:].any()


@pytest.mark.parametrize("num_frames", [5, 9, 81, 121])
def test_the_mask_of_a_last_frame_is_its_channel_of_the_last_latent_frame(num_frames: int):
    mask = np.array(frame_mask(geometry_of(32, 16, num_frames), kept=(0, num_frames - 1)))
    assert mask[:, :, 0, 0].sum() == 5
    assert (mask[:, 0] == 1).all()
    assert (mask[3, -1] == 1).all()
    assert not mask[:3, 1:].any()


@given(st.integers(0, 30), st.data())
@settings(deadline=None, max_examples=25)
def test_every_frame_has_a_mask_value_of_its_own(count: int, data: st.DataObject):
    num_frames = 4 * count + 1
    frame = data.draw(st.integers(0, num_frames - 1))
    mask = np.array(frame_mask(geometry_of(16, 16, num_frames), kept=[frame]))[:, :, 0, 0]
    slot = np.argwhere(mask).tolist()
    expected = [[c, 0] for c in range(4)] if frame == 0 else [[(frame - 1) % 4, (frame - 1) // 4 + 1]]
    assert slot == expected


def test_the_mask_stands_before_the_latents():
    encode, geometry = RecordingEncoder(), geometry_of(96, 48, 9)
    images = [picture(48, 96), picture(48, 96, seed=1)]
    for make, kept in ((concat_first_frame, (0,)), (concat_first_and_last_frame, (0, 8))):
        condition = finish(make(encode, images[: len(kept)], geometry))
        assert condition.keys() == {"concat_latents"}
        assert condition["concat_latents"].shape == (4 + 3, 3, 6, 12)
        assert mx.array_equal(condition["concat_latents"][:4], frame_mask(geometry, kept))
        expected = finish(encode([mx.array(chunk) for chunk in encode.chunks], 9))
        assert mx.array_equal(condition["concat_latents"][4:], expected)


def test_a_held_frame_covers_the_video_and_is_encoded_alone():
    encode, image = RecordingEncoder(), picture(62, 100)
    condition = finish(hold_first_frame(encode, [image], geometry_of(96, 64, 9, stride=16, z_dim=48)))
    np.testing.assert_array_equal(encode.clip, to_unit_range(cover_lanczos(image, 64, 96))[None])
    assert condition.keys() == {"first_frames"}
    assert condition["first_frames"].shape[:2] == (3, 1)


def test_fitted_frames_keep_what_the_interpolation_overshoots():
    edge = np.zeros((16, 16, 3), np.uint8)
    edge[:, 8:] = 255
    fitted = np.array(fit_frame(edge, geometry_of(48, 32, 5)))
    assert fitted.shape == (1, 32, 48, 3)
    assert fitted.min() < -1
    assert fitted.max() > 1


def test_images_that_the_video_follows_stay_whole_and_the_last_takes_the_shape_of_the_first():
    first, wide, tall = picture(62, 100), picture(80, 200), picture(80, 70)
    geometry = geometry_of(48, 16, 5)
    whole, cut = cut_images([first, wide], geometry, to_video=False)
    assert whole.shape == first.shape
    np.testing.assert_array_equal(cut, wide[:, 35:164])  # 129 = 80 · 100 / 62
    _, cut = cut_images([first, tall], geometry, to_video=False)
    np.testing.assert_array_equal(cut, tall[18:61])  # 43 = 70 · 62 / 100


def test_images_of_one_size_are_never_cut_against_each_other():
    first, last = picture(62, 100), picture(62, 100, seed=1)
    cut = cut_images([first, last], geometry_of(48, 16, 5), to_video=False)
    assert all(np.array_equal(image, given) for image, given in zip(cut, (first, last), strict=True))


def test_a_size_that_the_user_chose_cuts_every_image_to_its_shape():
    images = [picture(62, 100), picture(80, 40, seed=1)]
    cut = cut_images(images, geometry_of(32, 32, 5), to_video=True)
    assert [image.shape for image in cut] == [(62, 62, 3), (40, 40, 3)]
    np.testing.assert_array_equal(cut[0], images[0][:, 19:81])


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_images_are_fitted_to_the_video_or_to_the_first_of_them(fit):
    first, last = (picture(30, 40, seed) for seed in (1, 2))
    geometry, last = geometry_of(32, 16, 5), last[:10]
    fitted = cut_images([first, last], geometry, to_video=True, fit=fit)
    for found, image in zip(fitted, (first, last), strict=True):
        np.testing.assert_array_equal(found, fit_picture(image, 16, 32, fit))
    whole, like_it = cut_images([first, last], geometry, to_video=False, fit=fit)
    np.testing.assert_array_equal(whole, first)
    np.testing.assert_array_equal(like_it, fit_picture(last, 30, 40, fit))


def test_the_first_frame_replaces_that_of_the_latents_only():
    latents = mx.random.normal((48, 3, 4, 6), key=mx.random.key(0))
    first = mx.random.normal((48, 1, 4, 6), key=mx.random.key(1))
    imposed = impose_first_frames(latents, first)
    assert mx.array_equal(imposed[:, :1], first)
    assert mx.array_equal(imposed[:, 1:], latents[:, 1:])
    assert mx.array_equal(impose_first_frames(imposed, first), imposed)


def test_several_first_frames_replace_as_many_of_the_latents():
    latents, first = mx.zeros((48, 3, 4, 6)), mx.ones((48, 2, 4, 6))
    assert mx.array_equal(impose_first_frames(latents, first)[:, :, 0, 0], mx.array([[1.0, 1.0, 0.0]] * 48))


@pytest.mark.parametrize("shape", [(16, 1, 4, 6), (48, 4, 4, 6), (48, 1, 4, 5)])
def test_first_frames_of_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"first_frames is .*, for latents of \(48, 3, 4, 6\)"):
        impose_first_frames(mx.zeros((48, 3, 4, 6)), mx.zeros(shape))
