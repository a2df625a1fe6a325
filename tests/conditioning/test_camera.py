"""Camera paths and their rays: recorded numbers, files, presets, and one computation for each transformer."""

from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.control.camera_path import (
    DEFAULT_ORIGIN,
    DIRECTIONS,
    PRESETS,
    path_in_direction,
    path_of_preset,
    read_path,
)
from mlx_video.conditioning.control.camera_rays import CameraAddOn, CameraRays
from mlx_video.errors import MediaError
from mlx_video.models.block_context import Pass
from tests.models.control_networks import FUN_CAMERA, build_fun

# Moment and direction of a pixel, as DiffSynth-Studio and VideoX-Fun compute them.
RECORDED = [
    (("Left", 0.01), (480, 832), (0, 0, 0), (0, 0, 0, -0.629112, -0.362629, 0.687545)),
    (("Left", 0.01), (480, 832), (4, 0, 0), (0, 0, 0, -0.656614, -0.362629, 0.687545)),
    (("Left", 0.01), (480, 832), (4, 240, 416), (0, 0, 0, -0.038899, 0.001101, 0.999999)),
    (("Left", 0.01), (480, 832), (4, 479, 831), (0, 0, 0, 0.601610, 0.362629, 0.687545)),
    (("Up", 1 / 54), (480, 832), (4, 0, 0), (0, 0, 0, -0.629112, -0.413558, 0.687545)),
    (("RightDown", 0.01), (832, 480), (4, 400, 100), (0, 0, 0, -0.135103, 0.019992, 0.984470)),
    (("In", 1 / 54), (480, 832), (4, 0, 0), (0.026861, -0.046601, 0, -0.629112, -0.362629, 0.687545)),
    ("Pan_Left", (480, 832), (4, 0, 0), (0, 0.050929, 0.026861, -0.629112, -0.362629, 0.687545)),
    ("Zoom_In", (480, 832), (4, 0, 0), (0.053723, -0.093202, 0, -0.629112, -0.362629, 0.687545)),
    ("CW", (480, 832), (4, 0, 0), (0, 0, 0, -0.609526, -0.394663, 0.687545)),
]


@pytest.mark.parametrize(("path", "size", "place", "expected"), RECORDED)
def test_rays_have_the_recorded_numbers(path, size, place, expected):
    poses = path_of_preset(path, 81) if isinstance(path, str) else path_in_direction(path[0], 81, path[1])
    frame, row, column = place
    found = CameraRays(poses, *size).frame(frame)[:, row, column]
    np.testing.assert_allclose(found, expected, rtol=0, atol=6e-7)


def test_packed_rays_have_the_recorded_numbers():
    rays = CameraRays(path_in_direction("Left", 9, 0.01), 32, 48)
    packed = np.stack([rays.packed_frame(index) for index in range(3)], axis=1)
    assert packed.shape == (24, 3, 32, 48)
    expected = {
        12: (-0.568465, -0.575788, -0.605080),
        13: (-0.568465, -0.583111, -0.612403),
        14: (-0.568465, -0.590434, -0.619726),
        15: (-0.568465, -0.597757, -0.627049),
        16: (-0.374945,) * 3,
        20: (0.732300,) * 3,
        23: (0.732300,) * 3,
    }
    for channel, values in expected.items():
        np.testing.assert_allclose(packed[channel, :, 0, 0], values, rtol=0, atol=6e-7)
    assert packed.sum(dtype=np.float64) == pytest.approx(15806.960, abs=1e-3)
    assert np.abs(packed).mean(dtype=np.float64) == pytest.approx(0.241881, abs=6e-7)


def test_the_first_packed_frame_repeats_the_first_and_the_others_hold_four():
    rays = CameraRays(path_of_preset("Pan_Left", 9), 16, 16)
    frames = np.stack([rays.frame(index) for index in range(9)], axis=1)
    first, second = (rays.packed_frame(index).reshape(6, 4, 16, 16) for index in (0, 1))
    np.testing.assert_array_equal(first, frames[:, [0, 0, 0, 0]])
    np.testing.assert_array_equal(second, frames[:, 1:5])


def test_a_camera_that_stands_still_sees_the_same_rays():
    for poses in (path_in_direction("Left", 5, 0.0), path_of_preset("Static", 5)):
        rays = CameraRays(poses, 16, 32)
        np.testing.assert_allclose(rays.frame(4), rays.frame(0), rtol=0, atol=1e-7)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_only_in_and_out_move_the_camera(direction: str):
    moment = CameraRays(path_in_direction(direction, 5, 0.01), 16, 32).frame(4)[:3]
    assert moment.any() == (direction in ("In", "Out"))


def test_presets_of_81_frames_are_those_of_the_published_files():
    number = 50
    for preset, translation in (("Pan_Right_Up", (-1, 1, 0)), ("Zoom_Out", (0, 0, 2)), ("Static", (0, 0, 0))):
        matrix = path_of_preset(preset, 81)[number, 7:].reshape(3, 4)
        np.testing.assert_allclose(matrix[:, 3], np.multiply(translation, number / 54), atol=1e-15)
        np.testing.assert_array_equal(matrix[:, :3], np.eye(3))
    angle = number * math.pi / 3 / 81
    matrix = path_of_preset("ACW", 81)[number, 7:].reshape(3, 4)
    np.testing.assert_allclose(matrix[0, :2], [math.cos(angle), -math.sin(angle)], atol=1e-15)


def test_a_preset_takes_as_long_as_the_video_and_as_far_as_its_speed():
    np.testing.assert_allclose(
        path_of_preset("Pan_Left", 41, 2.0)[-1, 10], 40 / 41 * 2 * 1.5, rtol=0, atol=1e-15
    )
    assert len(PRESETS) == 13


# Files


def write_path(path: Path, poses: np.ndarray) -> Path:
    lines = [" ".join(f"{value:.9f}" for value in pose) for pose in poses]
    path.write_text("\n".join(["https://example.com/video", *lines, ""]))
    return path


def test_a_file_holds_one_pose_a_line_after_its_first(tmp_path: Path):
    poses = path_of_preset("Pan_Left", 9)
    path = write_path(tmp_path / "path.txt", poses)
    np.testing.assert_allclose(read_path(path, 5), poses[:5], rtol=0, atol=1e-9)


def test_a_file_that_is_no_path_is_refused(tmp_path: Path):
    path = write_path(tmp_path / "path.txt", path_of_preset("Static", 5))
    with pytest.raises(MediaError, match="path.txt: has 5 poses, the video has 9 frames"):
        read_path(path, 9)
    for line in ("1 2 3", " ".join(["nan"] * 19), " ".join(["x"] * 19)):
        path.write_text(f"title\n{line}\n")
        with pytest.raises(MediaError, match=r"path.txt: line 2 is no pose: \d+ values. Give 19 numbers"):
            read_path(path, 1)
    path.write_bytes(b"\xff\xfe\xff")
    for wrong in (path, tmp_path / "none.txt", tmp_path):
        with pytest.raises(MediaError, match="no camera trajectory can be read from it"):
            read_path(wrong, 1)


# The add-on


def test_camera_tokens_are_made_once_for_each_transformer_and_go_with_it(monkeypatch):
    transformer = build_fun(FUN_CAMERA)
    made = []
    adapter = type(transformer.control_adapter)
    original = adapter.__call__

    def count(self, frames):
        made.append(self)
        return original(self, frames)

    monkeypatch.setattr(adapter, "__call__", count)
    add_on = CameraAddOn(CameraRays(path_in_direction("Left", 9, 0.01), 32, 48), (0, 1, 2))
    text = transformer.project_text(mx.zeros((7, 20)), mx.zeros((257, 1280)))
    for _ in range(2):
        assert len(add_on(transformer, Pass(text)).hooks) == 1
    assert len(made) == 1
    other = build_fun(FUN_CAMERA)
    add_on(other, Pass(text))
    assert len(made) == 2
    tokens = weakref.ref(add_on), count_arrays(add_on)
    assert tokens[1] == 2
    made.clear()
    del other
    gc.collect()
    assert count_arrays(add_on) == 1
    # A transformer that stays in memory keeps nothing of a run that is over.
    del add_on
    assert tokens[0]() is None
    assert transformer is not None


def count_arrays(add_on: CameraAddOn) -> int:
    return sum(isinstance(each, mx.array) for pair in gc.get_referents(add_on._made._made) for each in pair)


def test_the_origin_is_the_default_lens_without_movement():
    np.testing.assert_array_equal(path_in_direction("Up", 1)[0], DEFAULT_ORIGIN)
