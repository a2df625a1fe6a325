from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.config import QuantizationConfig, TransformerConfig
from mlx_video.errors import ConfigError, RequestError
from mlx_video.formats.tensor_source import TensorInfo
from mlx_video.weights.names.transformer_names import WAN_RULES, transformer_tensors
from mlx_video.weights.quantize import (
    check_group_size,
    is_quantized_layer,
    quantize_rows,
    quantized_infos,
    read_quantization,
)
from mlx_video.weights.rules import target_shapes

SETTINGS = [QuantizationConfig(bits, group) for bits in (4, 8) for group in (32, 64, 128)]


def layers_of(config):
    shapes = target_shapes(transformer_tensors(config), WAN_RULES)
    return [name.removesuffix(".weight") for name in shapes if name.endswith(".weight")]


def test_ten_layers_of_every_block_are_quantized_and_nothing_else():
    chosen = [path for path in layers_of(TransformerConfig(1536, 8960, 12, 30)) if is_quantized_layer(path)]
    assert len(chosen) == 300
    block = [path.removeprefix("blocks.7.") for path in chosen if path.startswith("blocks.7.")]
    attention = [f"{kind}_attn.{letter}" for kind in ("self", "cross") for letter in "qkvo"]
    assert sorted(block) == sorted([*attention, "ffn.fc1", "ffn.fc2"])


@pytest.mark.parametrize(
    "path",
    [
        "blocks.0.cross_attn.k_img",
        "blocks.0.self_attn.norm_q",
        "head.head",
        "time_projection",
        "blocks.0.ffn.0",
    ],
)
def test_image_keys_norms_head_and_embeddings_stay_dense(path):
    assert not is_quantized_layer(path)


@pytest.mark.parametrize("setting", SETTINGS)
def test_slices_of_rows_quantize_to_the_bits_of_the_whole(setting):
    weight = mx.random.normal((37, 256), key=mx.random.key(1)).astype(mx.bfloat16)
    whole = quantize_rows(weight, setting)
    for start, stop in ((0, 5), (5, 6), (6, 37)):
        for part, entire in zip(quantize_rows(weight[start:stop], setting), whole, strict=True):
            assert mx.array_equal(part, entire[start:stop])


@pytest.mark.parametrize("setting", SETTINGS)
def test_planned_shapes_are_those_that_mlx_makes_and_tell_the_setting(setting):
    made = quantize_rows(mx.zeros((3, 256), mx.bfloat16), setting)
    infos = quantized_infos("a.q", (3, 256), "BF16", setting)
    assert [info.shape for info in infos] == [part.shape for part in made]
    assert [info.dtype for info in infos] == ["U32", "BF16", "BF16"]
    assert read_quantization("a.q", 256, {info.name: info for info in infos}) == setting


def test_packed_numbers_come_back_as_code_times_scale_plus_bias():
    weight = mx.array(np.linspace(-1, 1, 64, dtype=np.float32)[None])
    packed, scales, biases = quantize_rows(weight, QuantizationConfig(4, 64))
    words = np.array(packed)[0]
    codes = [(int(word) >> (4 * place)) & 15 for word in words for place in range(8)]
    values = np.array(codes) * np.array(scales)[0, 0] + np.array(biases)[0, 0]
    # 16 codes over a range of 2: at most half a step of 2/15.
    assert np.abs(values - np.array(weight)[0]).max() <= 1 / 15 + 1e-6


def test_a_group_size_that_does_not_fit_names_the_layer_and_those_that_do():
    tensors = target_shapes(transformer_tensors(TransformerConfig(192, 768, 3, 1)), WAN_RULES)
    check_group_size(tensors, QuantizationConfig(4, 64))
    with pytest.raises(
        RequestError, match=r"128: blocks.0.self_attn.q.weight has 192 inputs.*Use 32 or 64\."
    ):
        check_group_size(tensors, QuantizationConfig(4, 128))
    odd = target_shapes(transformer_tensors(TransformerConfig(48, 96, 3, 1)), WAN_RULES)
    with pytest.raises(RequestError, match="cannot be quantized"):
        check_group_size(odd, QuantizationConfig(4, 32))


def triple(weight, scales, biases, dtype="U32"):
    parts = {"weight": (weight, dtype), "scales": (scales, "BF16"), "biases": (biases, "BF16")}
    return {f"a.{part}": TensorInfo(f"a.{part}", (2, n), kind) for part, (n, kind) in parts.items() if n}


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        (triple(32, 4, 0), "lacks packed U32 weights or biases"),
        (triple(32, 4, 4, "BF16"), "lacks packed U32 weights or biases"),
        (triple(31, 4, 4), "do not quantize 256 inputs"),
        (triple(32, 5, 5), "do not quantize 256 inputs"),
        (triple(32, 4, 2), "do not quantize 256 inputs"),
        (triple(128, 4, 4), "do not quantize 256 inputs"),
    ],
)
def test_triples_that_no_quantization_makes_are_refused(infos, message):
    with pytest.raises(ConfigError, match=message):
        read_quantization("a", 256, infos)


def test_a_layer_without_inputs_is_refused():
    with pytest.raises(ConfigError, match=r"^a: weight \[2, 32\].* do not quantize 0 inputs"):
        read_quantization("a", 0, triple(32, 4, 4))


def test_a_triple_of_single_numbers_is_refused():
    infos = {name: replace(info, shape=()) for name, info in triple(32, 4, 4).items()}
    with pytest.raises(ConfigError, match="do not quantize 256 inputs"):
        read_quantization("a", 256, infos)
