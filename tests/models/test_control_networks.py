"""Control networks around the blocks: what they change, what they leave, and how they are put together."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.config import MotionControllerConfig
from mlx_video.errors import ConfigError
from mlx_video.models.block_context import Pass
from mlx_video.models.control.camera_adapter import CameraHook
from mlx_video.models.control.fun import FunTransformer, ReferenceHook
from mlx_video.models.control.motion_controller import MotionController
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.models.token_layout import frames_layout, video_layout
from mlx_video.weights.names.fun_names import FUN_RULES, fun_tensors
from mlx_video.weights.names.motion_names import motion_controller_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.names.vace_names import VACE_RULES, count_vace_blocks, vace_tensors
from mlx_video.weights.rules import target_shapes
from tests.models.control_networks import (
    FUN_CAMERA,
    FUN_CONTROL,
    PLAIN,
    VACE,
    build_plain,
    build_vace,
    sine_input,
)
from tests.models.networks import at

SIZE = (3, 4, 6)
VACE_CONTEXT = mx.array(sine_input((96, *SIZE), 0.07))


@pytest.fixture(scope="module")
def vace():
    return build_vace()


def velocity(transformer, *passes: dict) -> list[np.ndarray]:
    text = transformer.project_text(mx.array(sine_input((7, PLAIN.text_dim), 0.23)))
    latents = mx.array(sine_input((16, *SIZE), 0.11))
    return [
        np.array(one)
        for one in transformer.predict(latents, at(500.0), [Pass(text, **options) for options in passes])
    ]


@pytest.mark.parametrize(
    ("network", "config", "tensors", "rules"),
    [
        (VACETransformer, VACE, vace_tensors, VACE_RULES),
        (FunTransformer, FUN_CONTROL, fun_tensors, FUN_RULES),
        (FunTransformer, FUN_CAMERA, fun_tensors, FUN_RULES),
        (FunTransformer, replace(PLAIN, in_dim=36), fun_tensors, FUN_RULES),
    ],
)
def test_parameters_carry_the_names_and_shapes_of_a_converted_file(network, config, tensors, rules):
    found = {name: array.shape for name, array in tree_flatten(network(config).parameters())}
    official = transformer_tensors(config) | tensors(config)
    assert found == target_shapes(official, (*rules, *WAN_RULES))


def test_a_motion_controller_carries_the_names_of_its_file():
    sizes = MotionControllerConfig(48, 32)
    found = {name: array.shape for name, array in tree_flatten(MotionController(sizes).parameters())}
    assert found == motion_controller_tensors(sizes)


def test_vace_blocks_are_counted():
    assert count_vace_blocks(vace_tensors(VACE)) == 2
    assert count_vace_blocks(["blocks.0.x", "vace_patch_embedding.bias"]) == 0


@pytest.mark.parametrize("layers", [(1, 2), (0, 4), (0, 2, 1), (0, 0)])
def test_layers_that_no_vace_model_can_have_are_refused(layers):
    with pytest.raises(ConfigError, match="must rise from 0 within the 4 blocks"):
        replace(VACE, vace_layers=layers)


# VACE


def test_vace_at_scale_zero_is_the_transformer_alone(vace):
    (plain,) = velocity(build_plain(), {})
    (off,) = velocity(vace, {"hooks": (VACEHook(vace, VACE_CONTEXT, (0.0, 0.0)),)})
    np.testing.assert_array_equal(off, plain)


def test_vace_blocks_behind_the_last_hint_that_counts_do_not_run(vace):
    hook = VACEHook(vace, VACE_CONTEXT, (1.0, 0.0))
    blocks, vace.vace_blocks = vace.vace_blocks, [vace.vace_blocks[0]]
    try:
        (short,) = velocity(vace, {"hooks": (hook,)})
    finally:
        vace.vace_blocks = blocks
    (both,) = velocity(vace, {"hooks": (VACEHook(vace, VACE_CONTEXT, (1.0, 1e-30)),)})
    np.testing.assert_array_equal(short, both)


def test_each_pass_has_a_stream_of_its_own(vace):
    hooks = [(VACEHook(vace, scale * VACE_CONTEXT, (1.0, 1.0)),) for scale in (1.0, -0.5)]
    alone = [velocity(vace, {"hooks": one})[0] for one in hooks]
    together = velocity(vace, *({"hooks": one} for one in hooks))
    assert np.abs(alone[0] - alone[1]).max() > 5e-4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_hook_serves_step_after_step(vace):
    hook = VACEHook(vace, VACE_CONTEXT, (1.0, 1.0))
    first, second = (velocity(vace, {"hooks": (hook,)})[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_what_does_not_fit_vace_is_refused(vace):
    with pytest.raises(ValueError, match="1 VACE scales for 2 VACE blocks"):
        VACEHook(vace, VACE_CONTEXT, (1.0,))
    for context, message in (
        (VACE_CONTEXT[:32], "32 VACE channels, the transformer takes 96"),
        (VACE_CONTEXT[:, :2], "VACE context of 12 tokens beside a video of 18"),
    ):
        with pytest.raises(ValueError, match=message):
            velocity(vace, {"hooks": (VACEHook(vace, context, (1.0, 1.0)),)})


# Reference and camera tokens


def test_a_reference_stands_a_moment_before_the_video_and_is_no_output():
    tokens, longer = ReferenceHook(mx.ones((6, 48))).extend(mx.zeros((18, 48)), video_layout((3, 2, 3)))
    assert tokens.shape == (24, 48)
    assert tokens[:6].min().item() == 1
    reference, video = longer.segments
    assert (reference.times, video.times) == ((0.0,), (1.0, 2.0, 3.0))
    assert (reference.rows, reference.columns) == (video.rows, video.columns)
    assert longer.num_outputs == 18


def test_tokens_of_another_size_are_refused():
    with pytest.raises(ValueError, match="4 reference tokens for frames of 6"):
        ReferenceHook(mx.ones((4, 48))).extend(mx.zeros((18, 48)), video_layout((3, 2, 3)))
    with pytest.raises(ValueError, match="camera tokens"):
        CameraHook(mx.ones((6, 48))).extend(mx.zeros((18, 48)), video_layout((3, 2, 3)))
    with pytest.raises(ValueError, match="reference of 4 channels, the transformer takes 16"):
        FunTransformer(FUN_CONTROL).embed_reference(mx.zeros((4, 4, 6)))


def test_frames_at_their_usual_times_have_the_usual_layout():
    assert frames_layout((0, 1, 2), (3, 2, 3)) == video_layout((3, 2, 3))
