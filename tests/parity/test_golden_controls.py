"""Control networks reproduce recorded results of VideoX-Fun, DiffSynth-Studio and Diffusers, without torch.

The numbers are sums, means and single values as they were printed; the tolerance is half a printed digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.models.block_context import BlockHook, Pass
from mlx_video.models.control.camera_adapter import CameraHook
from mlx_video.models.control.fun import ReferenceHook
from mlx_video.models.control.vace import VACEHook
from mlx_video.models.token_layout import TokenLayout, frames_layout
from mlx_video.models.transformer import WanTransformer
from tests.models.control_networks import (
    FIRST_AND_LAST,
    FUN_CAMERA,
    FUN_CONTROL,
    IMAGE_TO_VIDEO,
    PLAIN,
    build_fun,
    build_motion_controller,
    build_plain,
    build_vace,
    sine_input,
)
from tests.models.networks import at

TIMESTEP = 500.0
SIZE = (3, 4, 6)
CONCAT = sine_input((32, *SIZE), 0.05)
REFERENCE = sine_input((16, 4, 6), 0.19)
CAMERA = sine_input((24, 3, 32, 48), 0.017)
VACE_CONTEXT = mx.array(sine_input((96, *SIZE), 0.07))
ONE_IMAGE = sine_input((257, 1280), 0.003)
TWO_IMAGES = sine_input((514, 1280), 0.003)


def velocity_of(
    transformer: WanTransformer,
    *,
    size: tuple[int, int, int] = SIZE,
    hooks: Sequence[BlockHook] = (),
    image: np.ndarray | None = None,
    concat: np.ndarray | None = None,
    added_modulation: mx.array | None = None,
    layout: TokenLayout | None = None,
) -> np.ndarray:
    """Velocity of the recorded inputs."""
    context = mx.array(sine_input((7, PLAIN.text_dim), 0.23))
    text = transformer.project_text(context, None if image is None else mx.array(image))
    one = Pass(text, tuple(hooks), added_modulation=added_modulation)
    (velocity,) = transformer.predict(
        mx.array(sine_input((16, *size), 0.11)),
        at(TIMESTEP),
        [one],
        concat_latents=None if concat is None else mx.array(concat),
        layout=layout,
    )
    return np.array(velocity, np.float64)


def check(
    found: np.ndarray, total: float, mean_abs: float, first: Sequence[float], last: Sequence[float]
) -> None:
    """Compare a result with what was printed of it."""
    flat = found.reshape(-1)
    assert flat.sum() == pytest.approx(total, abs=1.5e-5)
    assert np.abs(flat).mean() == pytest.approx(mean_abs, abs=1e-6)
    np.testing.assert_allclose([*flat[: len(first)], *flat[-len(last) :]], [*first, *last], rtol=0, atol=1e-6)


def test_the_plain_transformer():
    check(
        velocity_of(build_plain()),
        -7.30335, 0.277563, (-0.184760, -0.354556, -0.151203, -0.295677), (0.134177, -0.034243),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("scale", "total", "mean_abs", "first", "last"),
    [
        (1.0, -7.60977, 0.302624, (-0.198902, -0.447857, -0.162400, -0.390891), (0.210914, -0.081377)),
        (0.5, -7.45857, 0.289634, (-0.191786, -0.401012, -0.156753, -0.342986), (0.172121, -0.057558)),
        (0.0, -7.30335, 0.277563, (-0.184760, -0.354556, -0.151203, -0.295677), (0.134177, -0.034243)),
    ],
)
def test_vace(scale, total, mean_abs, first, last):
    transformer = build_vace()
    hook = VACEHook(transformer, VACE_CONTEXT, (scale, scale))
    check(velocity_of(transformer, hooks=[hook]), total, mean_abs, first, last)


def control_velocity(reference: np.ndarray | None, image: np.ndarray, concat: np.ndarray) -> np.ndarray:
    transformer = build_fun(FUN_CONTROL)
    hooks = [] if reference is None else [ReferenceHook(transformer.embed_reference(mx.array(reference)))]
    return velocity_of(transformer, hooks=hooks, image=image, concat=concat)


def test_control_with_a_reference():
    check(
        control_velocity(REFERENCE, ONE_IMAGE, CONCAT),
        4.77494, 0.209742, (-0.155475, 0.166157, -0.138889, 0.189155), (-0.387979, -0.038440),
    )  # fmt: skip


def test_control_with_a_reference_of_zeros():
    check(
        control_velocity(np.zeros_like(REFERENCE), ONE_IMAGE, CONCAT),
        4.74760, 0.212511, (-0.158980, 0.168996, -0.142242, 0.191806), (-0.392605, -0.040121),
    )  # fmt: skip


def test_control_without_reference_tokens():
    check(
        control_velocity(None, ONE_IMAGE, CONCAT),
        4.77748, 0.208827, (-0.154883, 0.164564, -0.138310, 0.187670), (-0.386575, -0.038516),
    )  # fmt: skip


def test_control_without_images():
    concat = np.concatenate([CONCAT[:16], np.zeros_like(CONCAT[:16])])
    check(
        control_velocity(None, np.zeros_like(ONE_IMAGE), concat),
        4.81101, 0.206428, (-0.165734, 0.170948, -0.148774, 0.191603), (-0.381822, -0.031581),
    )  # fmt: skip


def test_a_camera_path():
    transformer = build_fun(FUN_CAMERA)
    frames = [mx.array(CAMERA[:, index]) for index in range(3)]
    hook = CameraHook(transformer.control_adapter(frames))
    check(
        velocity_of(transformer, hooks=[hook], image=ONE_IMAGE, concat=CONCAT[:16]),
        -0.15298, 0.174455, (0.111526, 0.142308, 0.126261, 0.142859), (0.076134, 0.374517),
    )  # fmt: skip


def test_the_motion_controller_alone():
    check(
        np.array(build_motion_controller()(57), np.float64),
        -0.09016, 0.088397, (0.102138, -0.051888, -0.132923, -0.088458), (0.117956, 0.202459),
    )  # fmt: skip


def test_a_motion_bucket():
    check(
        velocity_of(build_plain(), added_modulation=build_motion_controller()(57)),
        -7.37869, 0.286482, (-0.176353, -0.404772, -0.144445, -0.347095), (0.183800, -0.058221),
    )  # fmt: skip


def test_first_and_last_frame_read_both_images():
    check(
        velocity_of(build_plain(FIRST_AND_LAST), image=TWO_IMAGES, concat=sine_input((20, *SIZE), 0.05)),
        10.27160, 0.323644, (0.274230, 0.381699, 0.293778, 0.376968), (-0.182009, 0.405603),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("times", "total", "mean_abs", "first", "last"),
    [
        ((0, 1), 6.71772, 0.559456, (0.754223, -0.859762, 0.711106, -0.793827), (0.530700, 0.052305)),
        ((0, 5), 6.73791, 0.559082, (0.758253, -0.854014, 0.714718, -0.788893), (0.530064, 0.053610)),
    ],
)
def test_frames_at_chosen_times(times, total, mean_abs, first, last):
    size = (2, 4, 6)
    found = velocity_of(
        build_plain(IMAGE_TO_VIDEO),
        size=size,
        image=ONE_IMAGE,
        concat=sine_input((20, *size), 0.05),
        layout=frames_layout(times, (2, 2, 3)),
    )
    check(found, total, mean_abs, first, last)
