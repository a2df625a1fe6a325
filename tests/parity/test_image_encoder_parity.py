"""Every leaf of the image encoder agrees with the official code and with Hugging Face's in float32.

Tolerance 1e-5 of the largest value: float32 rounds at 6e-8, and a leaf adds a few hundred products.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.conditioning.image_tokens import clip_pixels, encode_images
from tests.models.networks import IMAGE_ENCODER, build_image_encoder, image_encoder_arrays, relative_error
from tests.parity.golden import fill
from tests.parity.official import clip_module

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

TOLERANCE = 1e-5
PIXELS = fill((2, 56, 56, 3), 1006)
TOKENS = fill((2, 17, 64), 41, 1.7)


@pytest.fixture(scope="module")
def official():
    tower = clip_module().VisionTransformer(
        image_size=56, patch_size=14, dim=64, mlp_ratio=4, out_dim=32, num_heads=4, num_layers=3,
        pool_type="token", pre_norm=True, post_norm=False, activation="gelu",
    )  # fmt: skip
    tower.load_state_dict({name: torch.tensor(values) for name, values in image_encoder_arrays().items()})
    return tower.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours():
    return build_image_encoder()


def colours_first(pixels: np.ndarray):
    return torch.tensor(pixels.transpose(0, 3, 1, 2).copy())


def test_tokens_before_the_blocks_agree(official, ours):
    patches = official.patch_embedding(colours_first(PIXELS)).flatten(2).permute(0, 2, 1)
    tokens = torch.cat([official.cls_embedding.expand(2, -1, -1), patches], dim=1)
    expected = official.pre_norm(tokens + official.pos_embedding)
    assert relative_error(ours.embed(mx.array(PIXELS)), expected) <= TOLERANCE


def test_attention_agrees(official, ours):
    expected = official.transformer[0].attn(torch.tensor(TOKENS))
    assert relative_error(ours.transformer[0].attn(mx.array(TOKENS)), expected) <= TOLERANCE


def test_feed_forward_agrees(official, ours):
    expected = official.transformer[0].mlp(torch.tensor(TOKENS))
    assert relative_error(ours.transformer[0].mlp(mx.array(TOKENS)), expected) <= TOLERANCE


def test_block_agrees(official, ours):
    expected = official.transformer[1](torch.tensor(TOKENS))
    assert relative_error(ours.transformer[1](mx.array(TOKENS)), expected) <= TOLERANCE


def test_features_before_the_last_block_agree(official, ours):
    expected = official(colours_first(PIXELS), use_31_block=True)
    assert relative_error(ours(mx.array(PIXELS)), expected) <= TOLERANCE


@pytest.mark.parametrize("size", [(37, 53), (80, 30), (56, 56)])
def test_pixels_agree_with_the_official_preparation(size):
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    image = fill((*size, 3), 43)
    squashed = torch.nn.functional.interpolate(
        colours_first(image[None]), size=(56, 56), mode="bicubic", align_corners=False
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    expected = ((squashed * 0.5 + 0.5 - mean) / std)[0].permute(1, 2, 0)
    # 5e-6: the interpolation agrees to 2e-6 of values near 1, and dividing by 0.26 widens that.
    np.testing.assert_allclose(clip_pixels(image, 56), expected.numpy(), atol=5e-6)


def test_two_images_become_one_row_of_tokens_as_in_the_official_code(official, ours):
    images = [fill((37, 53, 3), 44), fill((70, 40, 3), 45)]
    pixels = np.stack([clip_pixels(image, 56) for image in images])
    # Two images in one call, then reshaped to one sequence, as wan/modules/model.py, MLPProj does.
    expected = official(colours_first(pixels), use_31_block=True).view(2 * 17, 64)
    assert relative_error(encode_images(ours, images), expected) <= TOLERANCE


def hugging_face_state() -> dict:
    """The official tensors under Hugging Face's names; its three projections are thirds of one."""
    arrays, state = image_encoder_arrays(), {}
    spellings = {
        "norm1": "layer_norm1",
        "norm2": "layer_norm2",
        "attn.proj": "self_attn.out_proj",
        "mlp.0": "mlp.fc1",
        "mlp.2": "mlp.fc2",
    }
    for index in range(3):
        there, here = f"encoder.layers.{index}", f"transformer.{index}"
        for part in ("weight", "bias"):
            for name, spelling in spellings.items():
                state[f"{there}.{spelling}.{part}"] = arrays[f"{here}.{name}.{part}"]
            thirds = np.split(arrays[f"{here}.attn.to_qkv.{part}"], 3)
            for letter, third in zip("qkv", thirds, strict=True):
                state[f"{there}.self_attn.{letter}_proj.{part}"] = third
    for part in ("weight", "bias"):
        state[f"pre_layrnorm.{part}"] = arrays[f"pre_norm.{part}"]
        state[f"post_layernorm.{part}"] = arrays[f"post_norm.{part}"]
    state["embeddings.class_embedding"] = arrays["cls_embedding"][0, 0]
    state["embeddings.position_embedding.weight"] = arrays["pos_embedding"][0]
    state["embeddings.patch_embedding.weight"] = arrays["patch_embedding.weight"]
    return {name: torch.tensor(values) for name, values in state.items()}


def test_features_agree_with_the_last_but_one_hidden_state_of_hugging_face(ours):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    size = IMAGE_ENCODER
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=size.width, intermediate_size=size.mlp_width, num_hidden_layers=size.num_layers + 1,
            num_attention_heads=size.num_heads, image_size=size.image_size, patch_size=size.patch_size,
            hidden_act="gelu", layer_norm_eps=1e-5,
        )
    ).eval()  # fmt: skip
    # Some releases put the tower's names behind this prefix, others do not.
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in model.state_dict()) else ""
    model.load_state_dict({prefix + name: values for name, values in hugging_face_state().items()})
    with torch.no_grad():
        expected = model(colours_first(PIXELS), output_hidden_states=True).hidden_states[-2]
    assert relative_error(ours(mx.array(PIXELS)), expected) <= TOLERANCE
