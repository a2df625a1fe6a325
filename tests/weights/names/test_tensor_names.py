"""Tensor lists: equal to those of the published files, and of the official code at other sizes."""

import hashlib
import re
from dataclasses import replace

import pytest

from mlx_video.config import TextEncoderConfig, TransformerConfig, VAEConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.names.text_encoder_names import WAN_RULES as TEXT_ENCODER_RULES
from mlx_video.weights.names.text_encoder_names import read_text_encoder_config, text_encoder_tensors
from mlx_video.weights.names.transformer_names import (
    WAN_RULES,
    original_shapes,
    read_image_sizes,
    transformer_tensors,
)
from mlx_video.weights.names.vae_names import WAN21_RULES, read_vae_config, vae_tensors
from mlx_video.weights.rules import target_shapes
from tests.parity.official import wan_module

SMALL_TRANSFORMER = TransformerConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=2, in_dim=5, out_dim=3, text_dim=7, freq_dim=10
)
I2V_14B = TransformerConfig(5120, 13824, 40, 40, in_dim=36, image_dim=1280)
FLF2V_14B = replace(I2V_14B, image_positions=514)
SMALL_TEXT_ENCODER = TextEncoderConfig(
    vocab_size=50, dim=16, dim_attn=24, dim_ffn=20, num_heads=3, num_layers=2, num_buckets=8
)


def fingerprint(shapes):
    """DiffSynth-Studio diffsynth/core/loader/model_config.py tells files apart by this hash."""
    texts = [text for name, shape in shapes.items() for text in (f"{name}:{'_'.join(map(str, shape))}", name)]
    return hashlib.md5(",".join(sorted(texts)).encode()).hexdigest()


def infos_of(shapes):
    return {name: TensorInfo(name, shape, "F32") for name, shape in shapes.items()}


def torch_shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("shapes", "count", "expected"),
    [
        (transformer_tensors(TransformerConfig(1536, 8960, 12, 30)), 825, "9269f8db9040a9d860eaca435be61814"),
        (
            transformer_tensors(TransformerConfig(5120, 13824, 40, 40)),
            1095,
            "aafcfd9672c3a2456dc46e1cb6e52c70",
        ),
        (transformer_tensors(I2V_14B), 1303, "6bfcfb3b342cb286ce886889d519a77e"),
        (transformer_tensors(FLF2V_14B), 1304, "3ef3b1f8e1dab83d5b71fd7b617f859f"),
        (text_encoder_tensors(TextEncoderConfig()), 242, "9c8818c2cbea55eca56c7b447df170da"),
        (vae_tensors(VAEConfig()), 194, "ccc42284ea13e1ad04693284c7a09be6"),
    ],
    ids=["T2V-1.3B", "T2V-14B", "I2V-14B", "FLF2V-14B", "UMT5", "VAE"],
)
def test_tensor_lists_are_those_of_the_published_files(shapes, count, expected):
    assert len(shapes) == count
    assert fingerprint(shapes) == expected


@pytest.mark.parity
def test_transformer_tensors_follow_the_official_module_at_any_size():
    model = wan_module("model").WanModel(
        model_type="t2v", patch_size=(1, 2, 2), text_len=4, in_dim=5, dim=24, ffn_dim=40, freq_dim=10,
        text_dim=7, out_dim=3, num_heads=2, num_layers=2,
    )  # fmt: skip
    assert transformer_tensors(SMALL_TRANSFORMER) == torch_shapes(model)


@pytest.mark.parity
def test_text_encoder_tensors_follow_the_official_module_at_any_size():
    encoder = wan_module("t5").T5Encoder(50, 16, 24, 20, 3, 2, 8, shared_pos=False, dropout=0.0)
    assert text_encoder_tensors(SMALL_TEXT_ENCODER) == torch_shapes(encoder)


@pytest.mark.parity
def test_vae_tensors_follow_the_official_module_at_any_width():
    vae = wan_module("vae2_1").WanVAE_(
        dim=12, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], dropout=0.0,
    )  # fmt: skip
    assert vae_tensors(VAEConfig(encoder_dim=12, decoder_dim=12)) == torch_shapes(vae)


def test_transformer_names_become_those_of_the_interchange_format():
    shapes = target_shapes(transformer_tensors(TransformerConfig(1536, 8960, 12, 30)), WAN_RULES)
    assert len(shapes) == 825
    assert shapes["patch_embedding_proj.weight"] == (1536, 64)
    assert shapes["patch_embedding_proj.bias"] == (1536,)
    assert shapes["text_embedding_0.weight"] == (1536, 4096)
    assert shapes["text_embedding_1.weight"] == (1536, 1536)
    assert shapes["time_embedding_0.weight"] == (1536, 256)
    assert shapes["time_embedding_1.bias"] == (1536,)
    assert shapes["time_projection.weight"] == (9216, 1536)
    assert shapes["blocks.29.ffn.fc1.weight"] == (8960, 1536)
    assert shapes["blocks.29.ffn.fc2.weight"] == (1536, 8960)
    assert shapes["blocks.0.modulation"] == (1, 6, 1536)
    assert shapes["head.head.weight"] == (64, 1536)


def test_the_image_branch_keeps_its_names_and_shapes():
    original = transformer_tensors(FLF2V_14B)
    added = {name: shape for name, shape in original.items() if "img" in name}
    assert len(added) == 40 * 5 + 9
    assert target_shapes(added, WAN_RULES) == added
    assert added["blocks.39.cross_attn.k_img.weight"] == (5120, 5120)
    assert added["img_emb.proj.3.weight"] == (5120, 1280)


@pytest.mark.parametrize("rules", [None, WAN_RULES], ids=["original", "converted"])
@pytest.mark.parametrize("sizes", [(None, 0), (1280, 0), (12, 34)])
def test_sizes_of_the_image_branch_are_read_from_its_tensors(sizes, rules):
    image_dim, image_positions = sizes
    config = replace(SMALL_TRANSFORMER, image_dim=image_dim, image_positions=image_positions)
    tensors = transformer_tensors(config)
    assert read_image_sizes(target_shapes(tensors, rules) if rules else tensors) == sizes


def test_only_the_gate_of_the_text_encoder_is_renamed():
    original = text_encoder_tensors(SMALL_TEXT_ENCODER)
    renamed = target_shapes(original, TEXT_ENCODER_RULES)
    assert renamed.keys() - original.keys() == {f"blocks.{n}.ffn.gate_proj.weight" for n in (0, 1)}
    assert renamed["blocks.1.ffn.gate_proj.weight"] == (20, 16)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (32, 1, 1, 1, 32)),
        ("conv2.weight", (16, 1, 1, 1, 16)),
        ("decoder.middle.1.to_qkv.weight", (1152, 1, 1, 384)),
        ("decoder.middle.1.norm.gamma", (384, 1, 1)),
        ("decoder.upsamples.3.resample.1.weight", (192, 3, 3, 384)),
        ("decoder.upsamples.3.time_conv.weight", (768, 3, 1, 1, 384)),
        ("decoder.upsamples.4.residual.2.weight", (384, 3, 3, 3, 192)),
        ("decoder.upsamples.4.residual.0.gamma", (192, 1, 1, 1)),
        ("decoder.upsamples.4.shortcut.weight", (384, 1, 1, 1, 192)),
        ("decoder.head.2.weight", (3, 3, 3, 3, 96)),
        ("decoder.head.2.bias", (3,)),
        ("encoder.downsamples.5.time_conv.weight", (192, 3, 1, 1, 192)),
        ("encoder.head.2.weight", (32, 3, 3, 3, 384)),
    ],
)
def test_vae_convolutions_turn_channels_last_and_keep_their_names(name, shape):
    assert target_shapes(vae_tensors(VAEConfig()), WAN21_RULES)[name] == shape


def test_text_encoder_sizes_are_read_from_its_tensors():
    assert read_text_encoder_config(infos_of(text_encoder_tensors(SMALL_TEXT_ENCODER))) == SMALL_TEXT_ENCODER


def test_the_first_generation_of_t5_is_refused_by_its_vocabulary():
    tensors = text_encoder_tensors(TextEncoderConfig(vocab_size=32128, dim=8, dim_attn=8, dim_ffn=8))
    with pytest.raises(
        CheckpointError, match=r"t5.pth: .* 32128 vocabulary rows \(T5 v1.1\); Wan needs UMT5-XXL"
    ):
        read_text_encoder_config(infos_of(tensors), label="t5.pth")


@pytest.mark.parametrize("name", ["token_embedding.weight", "blocks.0.attn.q.weight"])
def test_a_umt5_that_lacks_a_tensor_is_called_one(name):
    tensors = text_encoder_tensors(TextEncoderConfig(vocab_size=64, dim=8, dim_attn=8, dim_ffn=8))
    infos = infos_of({key: shape for key, shape in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match=f"{name} is missing, and the blocks of a UMT5 encoder are"):
        read_text_encoder_config(infos)


def test_a_file_that_is_no_umt5_says_which_tensor_tells():
    with pytest.raises(
        CheckpointError, match=r"x.pth: token_embedding.weight is missing, so this is no UMT5"
    ):
        read_text_encoder_config(infos_of({"a": (1,)}), label="x.pth")
    for shape in ((4,), (), (24, 0)):
        tensors = text_encoder_tensors(SMALL_TEXT_ENCODER) | {"blocks.0.attn.q.weight": shape}
        message = re.escape(f"blocks.0.attn.q.weight is {list(shape)} instead of a matrix")
        with pytest.raises(CheckpointError, match=message):
            read_text_encoder_config(infos_of(tensors))


def test_a_packed_transformer_of_single_numbers_is_described_as_it_is():
    tensors = {"patch_embedding_proj.bias": (), "blocks.0.self_attn.q.weight": (), "a.weight": ()}
    scales = {"blocks.0.self_attn.q.scales": (), "a.scales": ()}
    shapes = original_shapes(infos_of(tensors | scales))
    assert shapes["blocks.0.self_attn.q.weight"] == shapes["patch_embedding.bias"] == ()


@pytest.mark.parametrize("widths", [(96, 96), (8, 12), (None, 12), (8, None)])
@pytest.mark.parametrize("rules", [None, WAN21_RULES], ids=["original", "converted"])
def test_vae_widths_are_read_from_its_tensors(widths, rules):
    config = VAEConfig(encoder_dim=widths[0], decoder_dim=widths[1])
    tensors = vae_tensors(config)
    assert read_vae_config(infos_of(target_shapes(tensors, rules) if rules else tensors)) == config
