"""Every network of Animate, and the whole, agree with the official code and Diffusers' port in float32.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and errors grow through layers and blocks.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.formats.tensor_source import open_tensors
from mlx_video.models.animate.animate import AnimateHook, AnimateTransformer
from mlx_video.models.animate.motion_encoder import blur
from mlx_video.models.block_context import CrossAttentionCache, Pass, PromptTokens
from mlx_video.weights.component_networks import as_original
from mlx_video.weights.names.animate_names import ANIMATE_DIFFUSERS_RULES, ANIMATE_RULES, animate_tensors
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from tests.fixtures.weight_files import store, write_safetensors
from tests.models.animate_networks import (
    CONFIG,
    FACE_TOKENS,
    FACES,
    MOTIONS,
    POSE_LATENTS,
    TOKENS,
    animate_arrays,
    build_animate,
    faces,
    with_hidden_dim,
)
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    LATENTS,
    ONE_IMAGE,
    at,
    context_of,
    load,
    relative_error,
)
from tests.parity.golden import fill
from tests.parity.official_animate import animate_modules, build_diffusers_animate, build_official

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
# Diffusers computes the sinusoid in float32, which is exact to 6e-8 only at early timesteps.
TIMESTEPS = {"official": 937.0, "diffusers": 1.0}
# The official face encoder has no other channels.
OFFICIAL = with_hidden_dim(1024)


@pytest.fixture(scope="module")
def official():
    return build_official(OFFICIAL, animate_arrays(OFFICIAL))


@pytest.fixture(scope="module")
def ours():
    return build_animate(OFFICIAL)


def batch(values: np.ndarray):
    return torch.tensor(values)[None]


@pytest.mark.parametrize("padding", [1, 2])
def test_the_blur_agrees(padding):
    _, _, motion = animate_modules()
    pictures = fill((2, 8, 8, 3), 71)
    theirs = motion.Blur([1, 3, 3, 1], pad=(padding, padding))(torch.tensor(pictures).permute(0, 3, 1, 2))
    assert relative_error(blur(mx.array(pictures), padding), theirs.permute(0, 2, 3, 1)) <= TOLERANCE


def test_a_halving_block_agrees(official, ours):
    pictures = fill((2, 32, 32, 4), 72)
    theirs = official.motion_encoder.enc.net_app.convs[3](torch.tensor(pictures).permute(0, 3, 1, 2))
    found = ours.motion_encoder.res_blocks[2](mx.array(pictures))
    assert relative_error(found, theirs.permute(0, 2, 3, 1)) <= TOLERANCE


def test_the_motion_of_a_face_agrees(official, ours):
    features = official.motion_encoder.enc.enc_motion(torch.tensor(FACES).permute(0, 3, 1, 2))
    expected = official.motion_encoder.dec.direction(features)
    assert relative_error(ours.motion_encoder.encode_video(faces()), expected) <= TOLERANCE


def test_directions_keep_the_signs_of_the_official_factorization(official, ours):
    expected = official.motion_encoder.dec.direction(None)
    assert relative_error(ours.motion_encoder._orthogonal_directions(), expected) <= TOLERANCE


@pytest.mark.parametrize("num_frames", [1, 5, 7, 9])
def test_the_face_encoder_agrees(official, ours, num_frames):
    motions = MOTIONS[:num_frames]
    expected = official.face_encoder(batch(motions))[0]
    assert relative_error(ours.face_encoder(mx.array(motions)), expected) <= TOLERANCE


@pytest.mark.parametrize("number", [0, 1])
def test_a_face_block_agrees(official, ours, number):
    expected = official.face_adapter.fuser_blocks[number](batch(TOKENS), batch(FACE_TOKENS))[0]
    face = PromptTokens(CrossAttentionCache(mx.array(FACE_TOKENS)))
    found = ours.face_adapter.fuser_blocks[number](mx.array(TOKENS), context_of(ours, face))
    assert relative_error(found, expected) <= TOLERANCE


def test_the_patch_embedding_of_poses_agrees(official, ours):
    expected = official.pose_patch_embedding(batch(POSE_LATENTS))[0].flatten(1).T
    assert relative_error(ours.embed_poses(mx.array(POSE_LATENTS)), expected) <= TOLERANCE


def predict(transformer, timestep: float) -> mx.array:
    text = transformer.project_text(mx.array(CONTEXT), mx.array(ONE_IMAGE))
    hook = AnimateHook(transformer, mx.array(POSE_LATENTS), transformer.encode_face(faces()))
    (found,) = transformer.predict(
        mx.array(LATENTS), at(timestep), [Pass(text, (hook,))], concat_latents=mx.array(CONCAT_LATENTS)
    )
    return found


# The motion encoder checkpoints activations for gradients, of which there are none.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad", "ignore::FutureWarning")
def test_the_whole_transformer_agrees_with_the_official_one(official, ours):
    (expected,) = official(
        [torch.tensor(LATENTS)],
        torch.tensor([TIMESTEPS["official"]]),
        batch(ONE_IMAGE),
        [torch.tensor(CONTEXT)],
        seq_len=18,
        y=[torch.tensor(CONCAT_LATENTS)],
        pose_latents=batch(POSE_LATENTS),
        face_pixel_values=batch(FACES).permute(0, 4, 1, 2, 3),
    )
    assert relative_error(predict(ours, TIMESTEPS["official"]), expected) <= TOLERANCE


def test_the_whole_transformer_agrees_with_diffusers_under_its_names(tmp_path):
    theirs = build_diffusers_animate(CONFIG)
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0 / parameter[0].numel() ** 0.5)
    for parameter in theirs.motion_encoder.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter)
    padded = np.concatenate([CONTEXT, np.zeros((512 - len(CONTEXT), CONTEXT.shape[1]), np.float32)])
    expected = theirs(
        hidden_states=batch(np.concatenate([LATENTS, CONCAT_LATENTS])),
        timestep=torch.tensor([TIMESTEPS["diffusers"]]),
        encoder_hidden_states=batch(padded),
        encoder_hidden_states_image=batch(ONE_IMAGE),
        pose_hidden_states=batch(POSE_LATENTS),
        face_pixel_values=batch(FACES).permute(0, 4, 1, 2, 3),
        return_dict=False,
    )[0][0]
    file = tmp_path / "model.safetensors"
    write_safetensors(file, [store(name, values.numpy()) for name, values in theirs.state_dict().items()])
    with open_tensors([file]) as stored:
        source = as_original(stored, "model", ANIMATE_DIFFUSERS_RULES)
        arrays = {name: np.array(source.read(name)) for name in source.infos}
    expected_shapes = transformer_tensors(CONFIG) | animate_tensors(CONFIG)
    assert {name: values.shape for name, values in arrays.items()} == expected_shapes
    ours = load(AnimateTransformer(CONFIG), arrays, (*ANIMATE_RULES, *WAN_RULES), mx.float32)
    assert relative_error(predict(ours, TIMESTEPS["diffusers"]), expected) <= TOLERANCE
