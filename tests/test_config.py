"""config.json of a converted folder: ours, other tools', and damaged ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_video.config import (
    DEFAULT_NEGATIVE_PROMPT,
    WAN21_VAE,
    WAN22_VAE,
    ModelConfig,
    QuantizationConfig,
    SamplingDefaults,
    TextEncoderConfig,
    TransformerConfig,
    VAEConfig,
    config_from_json,
    config_to_json,
    find_vae_config,
)
from mlx_video.errors import ConfigError

T2V = ModelConfig(
    "wan2.1-t2v-1.3b", "2.1", TransformerConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
)

# What another converter writes for Wan2.1 T2V-1.3B: every shared key, in its order.
FOREIGN = {
    "model_type": "t2v", "model_version": "2.1", "patch_size": [1, 2, 2], "text_len": 512, "in_dim": 16,
    "dim": 1536, "ffn_dim": 8960, "freq_dim": 256, "text_dim": 4096, "out_dim": 16, "num_heads": 12,
    "num_layers": 30, "window_size": [-1, -1], "qk_norm": True, "cross_attn_norm": True, "eps": 1e-06,
    "vae_stride": [4, 8, 8], "vae_z_dim": 16, "dual_model": False, "boundary": 0.0, "sample_shift": 5.0,
    "sample_steps": 50, "sample_guide_scale": 5.0, "num_train_timesteps": 1000, "sample_fps": 16,
    "frame_num": 81, "sample_neg_prompt": DEFAULT_NEGATIVE_PROMPT, "max_area": 0, "t5_vocab_size": 256384,
    "t5_dim": 4096, "t5_dim_attn": 4096, "t5_dim_ffn": 10240, "t5_num_heads": 64, "t5_num_layers": 24,
    "t5_num_buckets": 32,
}  # fmt: skip


def test_our_file_holds_every_shared_key_in_the_shared_order():
    ours = config_to_json(T2V)
    assert [key for key in ours if key != "mlx_video"] == list(FOREIGN)
    assert {key: ours[key] for key in FOREIGN} == FOREIGN


@pytest.mark.parametrize("positions", [0, 514])
def test_sizes_of_the_image_branch_lie_under_our_key(positions: int):
    network = replace(T2V.transformer, in_dim=36, image_dim=1280, image_positions=positions)
    data = config_to_json(replace(T2V, transformer=network))
    assert [key for key in data if key != "mlx_video"] == list(FOREIGN)
    assert config_from_json(data).transformer == network


def test_another_tools_file_is_read_as_it_is():
    config = config_from_json(FOREIGN | {"sample_steps": 40, "a_key_of_a_fork": 1})
    assert config.transformer == T2V.transformer
    assert config.sampling.steps == 40
    assert config.quantization is None


@given(
    heads=st.integers(1, 8),
    head_dim=st.integers(2, 64),
    layers=st.integers(1, 50),
    steps=st.integers(1, 99),
    bits=st.sampled_from([None, 4, 8]),
    prompt=st.text(max_size=20),
)
@settings(deadline=None, max_examples=25)
def test_every_config_survives_the_file(heads, head_dim, layers, steps, bits, prompt):
    config = ModelConfig(
        "wan2.1-t2v",
        "2.1",
        TransformerConfig(dim=heads * head_dim, ffn_dim=7, num_heads=heads, num_layers=layers, text_len=64),
        TextEncoderConfig(vocab_size=53, num_layers=2),
        sampling=SamplingDefaults(steps=steps, negative_prompt=prompt, width=64, height=48),
        quantization=bits and QuantizationConfig(bits, 32),
    )
    assert config_from_json(json.loads(json.dumps(config_to_json(config)))) == config


def test_quantization_is_the_last_key():
    data = config_to_json(replace(T2V, quantization=QuantizationConfig(4, 64)))
    assert list(data)[-1] == "quantization"
    assert data["quantization"] == {"group_size": 64, "bits": 4}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"dim": "wide"}, "'dim' is 'wide', which is no int"),
        ({"dim": 1.5}, "'dim' is 1.5, which is no int"),
        ({"sample_guide_scale": [1, 2, 3]}, "neither a number nor \\[low, high\\]"),
        ({"quantization": {"bits": 4}}, "without bits or group_size"),
        ({"quantization": {"bits": "4", "group_size": 64}}, "'quantization': 'bits' is '4', which is no int"),
        ({"dim": float("inf")}, "'dim' is inf, which is no int"),
        ({"eps": float("nan")}, "'eps' is nan, which is no float"),
        ({"sample_guide_scale": float("nan")}, "neither a number nor"),
        ({"num_heads": 0}, "'num_heads' is 0, at least 1 is expected. Convert the model again"),
        ({"dim": -128}, "'dim' is -128, at least 1 is expected"),
        ({"text_len": 0}, "'text_len' is 0, at least 1"),
        ({"sample_fps": 0}, "'sample_fps' is 0, at least 1"),
        ({"max_area": -1}, "'max_area' is -1, at least 0"),
        ({"patch_size": [1, 2]}, "'patch_size' is \\[1, 2\\], which is not three positive whole numbers"),
        ({"patch_size": [1, "2", 2]}, "not three positive whole numbers"),
        ({"patch_size": "122"}, "not three positive whole numbers"),
        ({"vae_stride": [4, 0, 8]}, "not three positive whole numbers"),
        ({"vae_stride": [4, 16, 16]}, "VAEs of 16 channels have \\[4, 8, 8\\]"),
        ({"mlx_video": []}, "'mlx_video': holds list, not an object"),
        ({"mlx_video": {"width": "wide"}}, "'mlx_video': 'width' is 'wide', which is no int"),
        ({"mlx_video": {"variant": ["a"]}}, "'mlx_video': 'variant' is \\['a'\\], which is no str"),
        ({"num_heads": 7}, "dim 1536 is no multiple of num_heads 7"),
        ({"vae_z_dim": 48}, r"VAEs of 48 channels have \[4, 16, 16\]"),
        ({"vae_z_dim": 20}, "'vae_z_dim': vae: 20 latent channels; this version knows VAEs of 16"),
    ],
)
def test_a_wrong_value_is_named(change: dict, text: str):
    with pytest.raises(ConfigError, match=text):
        config_from_json(FOREIGN | change)


def test_a_missing_key_is_named():
    data = {key: value for key, value in FOREIGN.items() if key != "dim"}
    with pytest.raises(ConfigError, match="folder/config.json: the key 'dim' is missing"):
        config_from_json(data, where="folder/config.json")


@pytest.mark.parametrize("vae", [WAN21_VAE, WAN22_VAE], ids=["2.1", "2.2"])
def test_a_vae_is_found_by_its_latent_channels(vae: VAEConfig):
    assert find_vae_config(vae.z_dim) == vae
    data = config_to_json(replace(T2V, vae=vae))
    assert (data["vae_z_dim"], data["vae_stride"]) == (vae.z_dim, list(vae.stride))
    assert config_from_json(data).vae == vae
    del data["vae_stride"]
    assert config_from_json(data).vae == vae


def test_a_vae_that_makes_larger_frames_is_told_where_other_tools_do_not_look():
    vae = replace(WAN21_VAE, output_scale=2)
    data = config_to_json(replace(T2V, vae=vae))
    assert data["mlx_video"]["vae_output_scale"] == 2
    assert config_from_json(data).vae == vae
    assert "vae_output_scale" not in config_to_json(T2V)["mlx_video"]
    data["mlx_video"]["vae_output_scale"] = 0
    with pytest.raises(ConfigError, match="'vae_output_scale' is 0, at least 1"):
        config_from_json(data)


def test_an_unknown_key_in_our_own_file_is_an_error():
    data = config_to_json(T2V) | {"sample_stepps": 3}
    with pytest.raises(ConfigError, match="unknown key 'sample_stepps'"):
        config_from_json(data)


def test_a_transformer_without_heads_is_refused():
    with pytest.raises(ConfigError, match="num_heads is 0, networks have 1 to"):
        TransformerConfig(dim=64, ffn_dim=96, num_heads=0, num_layers=2)


def test_statistics_that_do_not_fit_the_channels_are_refused():
    with pytest.raises(ConfigError, match="48 latent channels, but 16 means"):
        VAEConfig(z_dim=48)


@pytest.mark.parametrize(
    "sizes",
    [
        {"vace_layers": tuple(range(0, 30, 2)), "vace_in_dim": 96},
        {"in_dim": 48, "image_dim": 1280, "reference_dim": 16},
        {"in_dim": 36, "camera_dim": 24},
    ],
)
def test_sizes_of_control_networks_lie_under_our_key(sizes: dict):
    network = replace(T2V.transformer, **sizes)
    data = json.loads(json.dumps(config_to_json(replace(T2V, transformer=network))))
    assert [key for key in data if key != "mlx_video"] == list(FOREIGN)
    assert config_from_json(data).transformer == network


@pytest.mark.parametrize("layers", [5, "0", [0, 1.5], [0, -1], [True]])
def test_vace_layers_of_another_form_are_refused(layers: object):
    data = config_to_json(
        replace(T2V, transformer=replace(T2V.transformer, vace_layers=(0,), vace_in_dim=96))
    )
    data["mlx_video"]["vace_layers"] = layers
    with pytest.raises(ConfigError, match="'vace_layers' is .* no list of whole numbers"):
        config_from_json(data)


# Source: Wan2.1 wan/modules/vae.py, WanVAE; Wan2.2 wan/modules/vae2_2.py, Wan2_2_VAE.
OFFICIAL_STATISTICS = {
    16: ((
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ), (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916,
    )),
    48: ((
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
        -0.1382, 0.0542, 0.2813, 0.0891, 0.157, -0.0098, 0.0375, -0.1825,
        -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123,
        -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052, 0.3748,
        0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ), (
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013,
        0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
        0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
        0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
        0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    )),
}  # fmt: skip


@pytest.mark.parametrize("channels", OFFICIAL_STATISTICS)
def test_latents_are_scaled_by_the_official_numbers(channels: int):
    config = find_vae_config(channels)
    assert (config.latent_mean, config.latent_std) == OFFICIAL_STATISTICS[channels]
