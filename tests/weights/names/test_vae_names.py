"""The Wan2.2 VAE's tensors: those of the published file, their converted names, and back to the network's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.config import WAN21_VAE, WAN22_VAE
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import open_tensors
from mlx_video.weights.names.vae_names import (
    CONVERTED_RULES,
    WAN22_RULES,
    conversion_rules,
    read_latent_channels,
    read_vae_config,
    vae_tensors,
)
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import Rule, apply_rules, drop, target_shapes
from tests.parity.official import wan_module
from tests.weights.names.test_tensor_names import fingerprint, infos_of, torch_shapes

SMALL = replace(WAN22_VAE, encoder_dim=12, decoder_dim=8)


def test_tensor_list_is_that_of_the_published_file():
    tensors = vae_tensors(WAN22_VAE)
    assert len(tensors) == 196
    assert fingerprint(tensors) == "e1de6c02cdac79f8b739f4d3698cd216"


@pytest.mark.parity
def test_tensors_follow_the_official_module_at_any_width():
    vae = wan_module("vae2_2").WanVAE_(
        dim=12, dec_dim=8, z_dim=48, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[],
        temperal_downsample=[False, True, True], dropout=0.0,
    )  # fmt: skip
    assert vae_tensors(SMALL) == torch_shapes(vae)


def test_a_decoder_that_doubles_the_size_differs_by_its_last_convolution_alone():
    usual, larger = vae_tensors(WAN21_VAE), vae_tensors(replace(WAN21_VAE, output_scale=2))
    changed = {name: shape for name, shape in larger.items() if usual[name] != shape}
    assert changed == {"decoder.head.2.weight": (12, 96, 3, 3, 3), "decoder.head.2.bias": (12,)}
    for tensors in (larger, target_shapes(larger, conversion_rules(WAN21_VAE))):
        assert read_vae_config(infos_of(tensors)).output_scale == 2
    assert read_vae_config(infos_of(vae_tensors(WAN22_VAE))).output_scale == 1


@pytest.mark.parametrize("channels", [0, 1, 4, 9, 24])
def test_a_last_convolution_of_other_channels_is_left_to_be_refused(channels: int):
    tensors = vae_tensors(WAN21_VAE) | {"decoder.head.2.weight": (channels, 96, 3, 3, 3)}
    assert read_vae_config(infos_of(tensors)).output_scale == 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (96, 1, 1, 1, 96)),
        ("conv2.bias", (48,)),
        ("encoder.conv1.weight", (160, 3, 3, 3, 12)),
        ("encoder.downsamples.1.downsamples.2.resample_weight", (320, 3, 3, 320)),
        ("encoder.downsamples.1.downsamples.2.resample_bias", (320,)),
        ("encoder.downsamples.1.downsamples.2.time_conv.weight", (320, 3, 1, 1, 320)),
        ("encoder.downsamples.2.downsamples.0.shortcut.weight", (640, 1, 1, 1, 320)),
        ("encoder.head.layer_2.weight", (96, 3, 3, 3, 640)),
        ("decoder.middle.1.norm.gamma", (1024,)),
        ("decoder.middle.1.to_qkv_weight", (3072, 1, 1, 1024)),
        ("decoder.middle.1.proj_weight", (1024, 1, 1, 1024)),
        ("decoder.middle.1.proj_bias", (1024,)),
        ("decoder.middle.0.residual.layer_0.gamma", (1024,)),
        ("decoder.middle.0.residual.layer_6.bias", (1024,)),
        ("decoder.upsamples.0.upsamples.3.time_conv.weight", (2048, 3, 1, 1, 1024)),
        ("decoder.upsamples.2.upsamples.0.residual.layer_2.weight", (512, 3, 3, 3, 1024)),
        ("decoder.head.layer_0.gamma", (256,)),
        ("decoder.head.layer_2.weight", (12, 3, 3, 3, 256)),
    ],
)
def test_converted_names_and_shapes_are_those_of_the_interchange_format(name, shape):
    converted = target_shapes(vae_tensors(WAN22_VAE), WAN22_RULES)
    assert len(converted) == 196
    assert converted[name] == shape


@pytest.mark.parametrize("config", [WAN21_VAE, WAN22_VAE], ids=["2.1", "2.2"])
def test_converted_names_lead_back_to_the_networks(config):
    original = vae_tensors(config)
    converted = target_shapes(original, conversion_rules(config))
    assert [apply_rules(name, CONVERTED_RULES)[0] for name in converted] == list(original)


def test_tensors_keep_their_numbers_on_the_way():
    squeeze = apply_rules("decoder.head.0.gamma", WAN22_RULES)[1]
    assert squeeze.apply(mx.arange(3).reshape(3, 1, 1, 1)).tolist() == [0, 1, 2]
    turn = apply_rules("decoder.middle.1.proj.weight", WAN22_RULES)[1]
    kernel = mx.arange(6).reshape(2, 3, 1, 1)
    assert mx.array_equal(turn.apply(kernel), kernel.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("widths", [(160, 256), (8, 12), (None, 12), (8, None)])
@pytest.mark.parametrize("layout", ["original", "converted"])
def test_widths_are_read_from_the_tensors(widths, layout):
    config = replace(WAN22_VAE, encoder_dim=widths[0], decoder_dim=widths[1])
    tensors = vae_tensors(config)
    if layout == "converted":
        shapes = target_shapes(tensors, WAN22_RULES)
        tensors = {apply_rules(name, CONVERTED_RULES)[0]: shape for name, shape in shapes.items()}
    assert read_vae_config(infos_of(tensors)) == config
    assert read_vae_config(infos_of(tensors), WAN22_VAE) == config


@pytest.mark.parametrize(("there", "wanted"), [(WAN22_VAE, WAN21_VAE), (WAN21_VAE, WAN22_VAE)])
def test_the_vae_of_another_generation_is_refused_with_both_channels(there, wanted):
    message = rf"v.pth: has {there.z_dim} latent channels, this model takes {wanted.z_dim}\. .*TI2V-5B"
    with pytest.raises(CheckpointError, match=message):
        read_vae_config(infos_of(vae_tensors(there)), wanted, label="v.pth")


def test_a_vae_of_unknown_channels_and_no_vae_at_all_are_refused():
    with pytest.raises(CheckpointError, match=r"v.pth: .*20 latent channels; this version knows VAEs of 16"):
        read_vae_config(infos_of({"conv2.weight": (20, 20, 1, 1, 1)}), label="v.pth")
    with pytest.raises(
        CheckpointError, match=r"conv1.weight and conv2.weight are missing, so this is no Wan"
    ):
        read_latent_channels(infos_of({"a": (1,)}))
    lacking = {name: shape for name, shape in vae_tensors(WAN21_VAE).items() if "conv" not in name[:5]}
    with pytest.raises(CheckpointError, match=r"conv2.weight are missing, and the blocks of a Wan VAE are"):
        read_latent_channels(infos_of(lacking))
    with pytest.raises(CheckpointError, match="no half of a VAE"):
        read_vae_config(infos_of({"conv2.weight": (48, 48, 1, 1, 1)}))


# Files under other names


def save(path: Path, **arrays: mx.array) -> Path:
    mx.save_safetensors(str(path), arrays)
    return path


def test_renamed_tensors_are_read_from_where_they_lie(tmp_path):
    path = save(tmp_path / "a.safetensors", x_weight=mx.arange(4), table=mx.zeros(2))
    rules = (drop("table"), Rule("*_weight", "*.weight"))
    with RenamedTensors(open_tensors(path), rules) as source:
        assert list(source.infos) == ["x.weight"]
        assert source.read("x.weight").tolist() == [0, 1, 2, 3]
        assert source.read("x.weight", slice(1, 3)).tolist() == [1, 2]
        assert source.file_of("x.weight") == path
        with pytest.raises(KeyError):
            source.read("x_weight")


def test_two_spellings_of_one_tensor_are_refused(tmp_path):
    path = save(tmp_path / "a.safetensors", **{"a.proj_bias": mx.zeros(1), "a.proj.bias": mx.ones(1)})
    message = r"a.proj.bias and a.proj_bias are two spellings"
    with open_tensors(path) as file, pytest.raises(CheckpointError, match=message):
        RenamedTensors(file, CONVERTED_RULES)
