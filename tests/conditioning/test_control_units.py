"""Units of the control models fill their fields from the inputs that belong to them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.clips import encode_frames
from mlx_video.conditioning.control.units import (
    CAMERA,
    FUN_CHANNELS,
    ONE_FRAME,
    REFERENCE,
    START,
    VACE,
    camera_poses,
    image_tokens_unit,
    vace_source,
)
from mlx_video.conditioning.frames import (
    concat_first_and_last_frame,
    concat_first_frame,
    concat_given_frames,
)
from mlx_video.conditioning.latent_frames import LatentFrames
from mlx_video.conditioning.units import (
    IMAGE_TOKENS,
    PROMPTS,
    UnitInputs,
    build_conditioning,
    fill_conditioning,
)
from mlx_video.config import ModelConfig
from mlx_video.media.fit import fit_frame, letterbox_reference
from mlx_video.media.resize import to_unit_range
from mlx_video.models.token_layout import frames_layout, video_layout
from mlx_video.sampling.noise import open_noise
from tests.conditioning.encoders import CellEncoder, geometry_of
from tests.fixtures.generators import finish
from tests.models.control_networks import FUN_CONTROL
from tests.models.control_networks import VACE as VACE_CONFIG

GEOMETRY = geometry_of(32, 16, 9)
VIDEO = np.random.default_rng(0).integers(0, 256, (9, 16, 32, 3), dtype=np.uint8)
MASK = np.zeros((9, 16, 32), bool)
MASK[:, :8] = True
IMAGE = np.random.default_rng(1).integers(0, 256, (20, 50, 3), dtype=np.uint8)
OTHER = np.random.default_rng(2).integers(0, 256, (30, 30, 3), dtype=np.uint8)


class FakeEncoders:
    """A VAE of cell means, and an image encoder that keeps what it is given."""

    def __init__(self) -> None:
        self.encode = CellEncoder()
        self.seen: list[np.ndarray] = []

    @contextmanager
    def open_vae(self):
        yield self.encode

    def encode_images(self, images):
        self.seen += images
        return mx.ones((257 * len(images), 1280))


def inputs_of(transformer=VACE_CONFIG, **given) -> UnitInputs:
    return UnitInputs(("a cat",), GEOMETRY, ModelConfig("tiny", "2.1", transformer), **given)


def fill(*units, encoders: FakeEncoders | None = None, **given) -> dict:
    return finish(fill_conditioning(units, inputs_of(**given), encoders or FakeEncoders()))


def reader(frames: np.ndarray):
    return lambda: iter(frames)


# VACE


def test_vace_reads_its_video_mask_and_references():
    filled = fill(
        VACE,
        videos={"vace_video": reader(VIDEO)},
        masks={"vace_video_mask": reader(MASK)},
        pictures={"vace_reference_image": [IMAGE, OTHER]},
        options={"vace_scale": 0.5},
    )
    assert filled["frames"] == LatentFrames(leading=2)
    add_on = filled["vace_add_on"]
    assert add_on.scales == (0.5,)
    assert add_on.vace_context.shape == (96, 5, 2, 4)
    found = np.array(add_on.vace_context)
    page = letterbox_reference(IMAGE, 16, 32)
    expected = np.array(finish(CellEncoder()([mx.array(page)[None]], 1)))
    np.testing.assert_array_equal(found[:16, :1], expected)
    assert (found[32:, 2:, 0] == 1).all()
    assert not found[32:, 2:, 1].any()


@pytest.mark.parametrize(
    ("options", "repaints", "scales"),
    [
        ({}, False, (1.0,)),
        ({"vace_masked_region": "generate", "vace_scale": 2}, False, (2.0,)),
        ({"vace_masked_region": "repaint", "vace_scale": (1.0, 0.5)}, True, (1.0, 0.5)),
    ],
)
def test_vace_options_reach_their_places(options, repaints, scales):
    assert vace_source(inputs_of(options=options)).repaints == repaints
    assert fill(VACE, options=options)["vace_add_on"].scales == scales


def test_first_and_last_frame_become_a_video_and_a_mask_for_vace():
    source = vace_source(inputs_of(originals={"image": IMAGE, "end_image": OTHER}))
    frames, masks = np.stack([*source.video()]), np.stack([*source.mask()])
    np.testing.assert_array_equal(frames[0], fit_frame(IMAGE, 16, 32))
    np.testing.assert_array_equal(frames[8], fit_frame(OTHER, 16, 32))
    assert masks.all((1, 2)).tolist() == [False, *[True] * 7, False]


# Fun


def test_fun_channels_hold_control_video_and_fitted_image():
    given = {"videos": {"control_video": reader(VIDEO)}, "originals": {"image": IMAGE}}
    found = np.array(fill(FUN_CHANNELS, transformer=FUN_CONTROL, **given)["concat_latents"])
    assert found.shape == (32, 3, 2, 4)
    frames = (to_unit_range(frame) for frame in VIDEO)
    expected = finish(encode_frames(CellEncoder(), frames, GEOMETRY))
    np.testing.assert_array_equal(found[:16], np.array(expected))
    assert found[16:, 0].any()
    assert not found[16:, 1:].any()


@pytest.mark.parametrize(
    ("originals", "chosen"),
    [({"reference_image": OTHER, "image": IMAGE}, OTHER), ({"image": IMAGE}, IMAGE), ({}, None)],
)
def test_clip_sees_the_preferred_image_or_none(originals, chosen):
    encoders = FakeEncoders()
    unit = image_tokens_unit("reference_image", "image", is_fitted=False)
    tokens = fill(unit, encoders=encoders, transformer=FUN_CONTROL, originals=originals)["image_tokens"]
    assert tokens.shape == (257, 1280)
    assert tokens.any().item() == (chosen is not None)
    assert len(encoders.seen) == (chosen is not None)
    if chosen is not None:
        np.testing.assert_array_equal(encoders.seen[0], to_unit_range(chosen))


def test_clip_sees_the_image_as_the_video_shows_it_where_that_is_asked():
    encoders = FakeEncoders()
    unit = image_tokens_unit("image", is_fitted=True)
    fill(unit, encoders=encoders, transformer=FUN_CONTROL, originals={"image": IMAGE})
    np.testing.assert_array_equal(encoders.seen[0], to_unit_range(fit_frame(IMAGE, 16, 32)))


def test_a_reference_is_encoded_alone_and_none_is_zeros():
    without = fill(REFERENCE)["reference_add_on"].reference
    assert without.shape == (16, 2, 4)
    assert not without.any().item()
    found = fill(REFERENCE, originals={"reference_image": IMAGE})["reference_add_on"].reference
    page = to_unit_range(fit_frame(IMAGE, 16, 32))
    np.testing.assert_array_equal(found, finish(CellEncoder()([mx.array(page)[None]], 1))[:, 0])


# Camera


def test_camera_options_name_a_path(tmp_path: Path):
    assert camera_poses({}, 9) is None
    moved = camera_poses({"camera_control_direction": "Left", "camera_control_speed": 0.01}, 9)
    assert moved[8, 9] == pytest.approx(0.08)
    assert camera_poses({"camera_control_direction": "Left"}, 9)[8, 9] == pytest.approx(8 / 54)
    assert camera_poses({"camera_trajectory": "Pan_Left"}, 81)[54, 10] == pytest.approx(1)
    lines = ["title", *[" ".join(map(str, pose)) for pose in moved]]
    (tmp_path / "path.txt").write_text("\n".join(lines))
    np.testing.assert_allclose(camera_poses({"camera_trajectory": tmp_path / "path.txt"}, 9), moved)


def test_a_camera_is_an_add_on_where_a_path_is_given():
    assert fill(CAMERA) == {}
    assert [*fill(CAMERA, options={"camera_trajectory": "Static"})] == ["camera_add_on"]


# Video to video, one frame


def test_a_video_is_begun_with_behind_the_references():
    filled = fill(START, videos={"input_video": reader(VIDEO)}, pictures={"vace_reference_image": [IMAGE]})
    assert filled["start_latents"].shape == (16, 4, 2, 4)
    alone = fill(START, videos={"input_video": reader(VIDEO)})["start_latents"]
    np.testing.assert_array_equal(filled["start_latents"][:, 1:], alone)
    assert fill(START) == {}


def test_one_frame_lies_between_its_controls():
    options = {"target_index": 1, "control_index": (0, 10)}
    filled = fill(ONE_FRAME, pictures={"control_image": [IMAGE, OTHER]}, options=options)
    assert filled["frames"] == LatentFrames(times=(0, 1, 10), kept=1)
    assert filled["concat_latents"].shape == (20, 3, 2, 4)
    assert fill(ONE_FRAME) == {}


# Frames that are sampled


def test_leading_frames_are_sampled_and_dropped():
    frames = LatentFrames(leading=2)
    assert frames.count(3) == 5
    assert frames.layout((3, 1, 2)) == video_layout((5, 1, 2))
    noise = frames.draw_noise(open_noise("torch", 7), (16, 3, 2, 4))
    assert noise.shape == (16, 5, 2, 4)
    alone = LatentFrames().draw_noise(open_noise("torch", 7), (16, 3, 2, 4))
    np.testing.assert_array_equal(frames.select_result(noise), alone)


def test_one_of_several_frames_is_kept():
    frames = LatentFrames(times=(0, 1, 10), kept=1)
    assert frames.layout((1, 1, 2)) == frames_layout((0, 1, 10), (3, 1, 2))
    noise = frames.draw_noise(open_noise("torch", 7), (16, 1, 2, 4))
    assert noise.shape == (16, 3, 2, 4)
    np.testing.assert_array_equal(frames.select_result(noise), noise[:, 1:2])


# Joining


def test_add_ons_of_several_units_join_in_the_order_of_the_units():
    class Texts(FakeEncoders):
        def encode_texts(self, texts):
            yield from ()
            return [mx.zeros((2, 20))]

    inputs = inputs_of(options={"camera_trajectory": "Static"})
    fields = finish(fill_conditioning((PROMPTS, CAMERA, REFERENCE), inputs, Texts()))
    conditioning = build_conditioning(fields)
    assert conditioning.add_ons == (fields["camera_add_on"], fields["reference_add_on"])
    assert replace(conditioning, add_ons=()).context is fields["context"]


# First and last frame of models that tell no images apart


@pytest.mark.parametrize(("positions", "count"), [(0, 1), (514, 2)])
def test_clip_sees_as_many_images_as_the_transformer_has_places_for(positions: int, count: int):
    transformer = replace(FUN_CONTROL, in_dim=36, image_dim=1280, image_positions=positions)
    encoders = FakeEncoders()
    filled = fill(
        IMAGE_TOKENS,
        encoders=encoders,
        transformer=transformer,
        images={"image": IMAGE, "end_image": OTHER},
    )
    assert filled["image_tokens"].shape == (257 * count, 1280)
    for seen, given in zip(encoders.seen, (IMAGE, OTHER)[:count], strict=True):
        assert np.array_equal(seen, to_unit_range(given))


def test_a_last_frame_that_may_be_given_goes_where_a_needed_one_goes():
    images = [IMAGE, OTHER]
    for given, condition in ((1, concat_first_frame), (2, concat_first_and_last_frame)):
        expected = finish(condition(CellEncoder(), images[:given], GEOMETRY))["concat_latents"]
        found = finish(concat_given_frames(CellEncoder(), images[:given], GEOMETRY))["concat_latents"]
        assert mx.array_equal(found, expected)
