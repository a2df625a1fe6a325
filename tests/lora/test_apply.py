"""Adapters on quantized and streamed transformers, and beside layers instead of in them."""

from __future__ import annotations

import gc
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.errors import AdapterError
from mlx_video.lora.apply import apply_adapters, merged_weight
from mlx_video.models.matmul import project
from tests.lora.adapter_files import (
    LAYERS,
    RANK,
    arrays_of,
    base_arrays,
    build_quantized,
    layer_at,
    pair,
    product,
    read,
    unpacked,
    write,
)
from tests.models.networks import build_transformer, forward, relative_error, run_gpu_code
from tests.parity.golden import fill

Q, FC1, FC2 = "blocks.0.self_attn.q", "blocks.0.ffn.fc1", "blocks.1.ffn.fc2"
# One float32 product of 64 to 96 numbers.
TOLERANCE = 1e-5


def write_pairs(path, salt=1, alpha=None, rank=RANK, layers=tuple(LAYERS), dtype=np.float32):
    arrays = {}
    for index, layer in enumerate(layers):
        official = LAYERS[layer][0]
        down, up = pair(layer, salt + index, rank=rank)
        arrays[f"diffusion_model.{official}.lora_A.weight"] = down.astype(dtype)
        arrays[f"diffusion_model.{official}.lora_B.weight"] = up.astype(dtype)
        if alpha is not None:
            arrays[f"diffusion_model.{official}.alpha"] = np.array(alpha, np.float32)
    return write(path, arrays)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("mode", ["auto", "side"])
def test_a_quantized_layer_stays_packed_and_runs_its_pair_beside(tmp_path, bits, mode):
    path = write_pairs(tmp_path / "a.safetensors", alpha=2.0)
    model, before = build_quantized(bits), arrays_of(build_quantized(bits))
    apply_adapters(model, read((path, 0.5)), mode=mode)
    for index, name in enumerate((Q, "blocks.1.self_attn.o", "blocks.1.cross_attn.k", FC1, FC2)):
        layer = layer_at(model, name)
        for part in ("weight", "scales", "biases", "bias"):
            np.testing.assert_array_equal(np.array(layer[part]), before[f"{name}.{part}"])
        weight = unpacked(layer) + product(pair(name, 1 + index), 0.5 * 2.0 / RANK)
        x = fill((5, weight.shape[1]), 77)
        expected = x.astype(np.float64) @ weight.T + np.array(layer.bias, np.float64)
        assert relative_error(project(layer, mx.array(x)), expected) <= TOLERANCE


def test_layers_left_dense_in_a_quantized_model_are_merged(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors", layers=("time_projection", "head.head", Q))
    model = build_quantized()
    apply_adapters(model, read(path))
    for index, name in enumerate(("time_projection", "head.head")):
        expected = base_arrays()[f"{name}.weight"] + product(pair(name, 1 + index))
        np.testing.assert_allclose(np.array(layer_at(model, name).weight), expected, rtol=1e-6, atol=1e-6)
        assert "side" not in layer_at(model, name)
    assert "unmerged" in layer_at(model, Q)


def test_the_whole_quantized_transformer_agrees_with_its_dense_twin(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors")
    model, dense = build_quantized(8), build_transformer()
    for name, layer in model.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            layer_at(dense, name).weight = mx.array(unpacked(layer).astype(np.float32))
    apply_adapters(model, read((path, 0.2)))
    apply_adapters(dense, read((path, 0.2)))
    # Two blocks of float32 products whose order differs.
    assert relative_error(forward(model), forward(dense)) <= 1e-4
    assert relative_error(forward(model), forward(build_quantized(8))) >= 1e-2


def test_several_adapters_on_one_layer_run_as_one_pair(tmp_path):
    choices = [
        (write_pairs(tmp_path / "a.safetensors", 1, 2.0, 4, (Q,)), 0.5),
        (write_pairs(tmp_path / "b.safetensors", 11, None, 2, (Q,)), -1.5),
        (write_pairs(tmp_path / "c.safetensors", 21, 1.0, 3, (Q,), np.float16), 1.0),
    ]
    model = build_quantized()
    apply_adapters(model, read(*choices))
    layer = model.blocks[0].self_attn.q
    assert (layer.unmerged.down.shape, layer.unmerged.up.shape) == ((9, 64), (64, 9))
    assert layer.unmerged.down.dtype == mx.float32  # the widest of them
    weight = unpacked(layer) + product(pair(Q, 1), 0.5 * 2 / 4) + product(pair(Q, 11, rank=2), -1.5)
    weight += product([half.astype(np.float16) for half in pair(Q, 21, rank=3)], 1 / 3)
    x = fill((5, 64), 77)
    expected = x.astype(np.float64) @ weight.T + np.array(layer.bias, np.float64)
    assert relative_error(project(layer, mx.array(x)), expected) <= TOLERANCE


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_factors_beside_a_layer_keep_the_type_of_their_file(tmp_path, dtype):
    path = write_pairs(tmp_path / "a.safetensors", layers=(Q,), dtype=dtype)
    model, adapters = build_quantized(dtype=mx.bfloat16), read((path, 0.3))
    apply_adapters(model, adapters)
    side = model.blocks[0].self_attn.q.unmerged
    assert side.down.nbytes + side.up.nbytes == adapters.nbytes
    np.testing.assert_array_equal(np.array(side.down), pair(Q)[0].astype(dtype))


def test_products_beside_a_layer_run_in_the_type_asked_for(tmp_path, monkeypatch):
    run_gpu_code(monkeypatch)
    path = write_pairs(tmp_path / "a.safetensors", layers=(Q,), dtype=np.float16)
    model = build_quantized(dtype=mx.bfloat16)
    apply_adapters(model, read((path, 0.3)))
    layer, plain = model.blocks[0].self_attn.q, build_quantized(dtype=mx.bfloat16).blocks[0].self_attn.q
    x = mx.array(fill((5, 64), 77))
    added = np.array(x, np.float64) @ product([half.astype(np.float16) for half in pair(Q)], 0.3).T
    # bfloat16 keeps eight bits of inputs, factors and results.
    for dtype, tolerance in ((mx.bfloat16, 2e-2), (mx.float32, TOLERANCE)):
        found = project(layer, x, dtype)
        assert found.dtype == dtype
        expected = np.array(project(plain, x, dtype).astype(mx.float32), np.float64) + added
        assert relative_error(found.astype(mx.float32), expected) <= tolerance


def test_mode_side_runs_beside_dense_layers_too(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors", alpha=2.0)
    model, merged = build_transformer(), build_transformer()
    apply_adapters(model, read((path, 0.2)), mode="side")
    apply_adapters(merged, read((path, 0.2)), mode="merge")
    assert "unmerged" in model.time_projection
    untouched = base_arrays()["time_projection.weight"]
    np.testing.assert_array_equal(np.array(model.time_projection.weight), untouched)
    assert relative_error(forward(model), forward(merged)) <= 1e-4


@pytest.mark.parametrize("bits", [4, 8])
def test_mode_merge_packs_a_changed_layer_again(tmp_path, bits):
    path = write_pairs(tmp_path / "a.safetensors", layers=(Q,))
    model, before = build_quantized(bits), build_quantized(bits)
    apply_adapters(model, read(path), mode="merge")
    layer = model.blocks[0].self_attn.q
    assert isinstance(layer, nn.QuantizedLinear)
    assert (layer.bits, layer.group_size, "unmerged" in layer) == (bits, 32, False)
    target = unpacked(before.blocks[0].self_attn.q) + product(pair(Q))
    packed = mx.quantize(mx.array(target.astype(np.float32)), group_size=32, bits=bits)
    for part, expected in zip(("scales", "biases"), packed[1:], strict=True):
        np.testing.assert_allclose(np.array(layer[part]), np.array(expected), rtol=1e-4, atol=1e-6)
    # Numbers midway between two codes may fall to either side.
    again = np.array(mx.dequantize(*packed, group_size=32, bits=bits))
    assert np.mean(np.isclose(unpacked(layer), again, rtol=1e-4, atol=1e-6)) >= 0.99
    untouched = arrays_of(before.blocks[1])
    for name, found in arrays_of(model.blocks[1]).items():
        np.testing.assert_array_equal(found, untouched[name])


OTHER_KINDS = {
    "diff": {"diff": fill((64, 64), 1)},
    "LoKr": {"lokr_w1": fill((8, 8), 1), "lokr_w2": fill((8, 8), 2)},
    "LoHa": {f"hada_w{i}_{p}": fill((64, 3) if p == "a" else (3, 64), i) for i in (1, 2) for p in "ab"},
    "DoRA": {
        "lora_A.weight": pair(Q)[0], "lora_B.weight": pair(Q)[1], "dora_scale": fill((64,), 3, 0.2, 1.0),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_changes_that_are_no_plain_pair_make_a_quantized_layer_dense(tmp_path, kind):
    arrays = {f"diffusion_model.{Q}.{role}": array for role, array in OTHER_KINDS[kind].items()}
    adapters = read(write(tmp_path / "a.safetensors", arrays))
    model, before = build_quantized(dtype=mx.bfloat16), build_quantized(dtype=mx.bfloat16)
    apply_adapters(model, adapters)
    layer = model.blocks[0].self_attn.q
    assert type(layer) is nn.Linear
    assert layer.weight.dtype == mx.bfloat16
    packed = before.blocks[0].self_attn.q
    exact = mx.dequantize(
        packed.weight, packed.scales.astype(mx.float32), packed.biases.astype(mx.float32), 32, 4
    )
    expected = merged_weight(adapters, f"{Q}.weight", exact).astype(mx.bfloat16)
    assert mx.array_equal(layer.weight, expected).item()
    assert mx.array_equal(layer.bias, packed.bias).item()
    assert isinstance(model.blocks[0].self_attn.k, nn.QuantizedLinear)
    assert "1 layer becomes dense in a quantized model" in adapters.notices[0]


def test_a_pair_and_a_delta_of_one_quantized_layer_are_both_merged(tmp_path):
    pairs = write_pairs(tmp_path / "a.safetensors", layers=(Q,))
    diff = write(tmp_path / "b.safetensors", {f"{Q}.diff": fill((64, 64), 5)})
    model, before = build_quantized(), build_quantized()
    apply_adapters(model, read(pairs, diff))
    expected = unpacked(before.blocks[0].self_attn.q) + product(pair(Q)) + fill((64, 64), 5)
    layer = model.blocks[0].self_attn.q
    assert "side" not in layer
    np.testing.assert_allclose(np.array(layer.weight), expected, rtol=1e-6, atol=1e-6)


def test_a_bias_of_a_quantized_layer_is_merged(tmp_path):
    delta = fill((64,), 5)
    model = build_quantized()
    apply_adapters(model, read(write(tmp_path / "a.safetensors", {f"{Q}.diff_b": delta})))
    layer = model.blocks[0].self_attn.q
    assert isinstance(layer, nn.QuantizedLinear)
    np.testing.assert_allclose(np.array(layer.bias), base_arrays()[f"{Q}.bias"] + delta, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["auto", "merge", "side"])
@pytest.mark.parametrize("build", [build_transformer, build_quantized], ids=["dense", "quantized"])
def test_block_by_block_is_the_whole_bit_for_bit(tmp_path, build, mode):
    arrays = {"blocks.0.diff_m": fill((1, 6, 64), 4), "blocks.1.cross_attn.v.diff": fill((64, 64), 5)}
    paths = [write_pairs(tmp_path / "a.safetensors", alpha=3.0), write(tmp_path / "b.safetensors", arrays)]
    whole, adapters = build(), read(*paths)
    apply_adapters(whole, read(*paths), mode=mode)
    for _ in range(2):  # the second time from memory
        streamed = build()
        blocks, streamed.blocks = streamed.blocks, []
        apply_adapters(streamed, adapters, mode=mode)
        streamed.blocks = blocks
        for index, block in enumerate(blocks):
            apply_adapters(block, adapters, mode=mode, prefix=f"blocks.{index}.")
        found, expected = arrays_of(streamed), arrays_of(whole)
        assert set(found) == set(expected)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_blocks_that_are_streamed_do_not_need_the_file_again(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors")
    adapters = read(path)
    apply_adapters(build_quantized().blocks[0], adapters, prefix="blocks.0.")
    path.write_bytes(b"")
    block = build_quantized().blocks[0]
    apply_adapters(block, adapters, prefix="blocks.0.")
    assert "unmerged" in block.self_attn.q


def test_blocks_that_a_transformer_lacks_are_left_to_calls_of_their_own(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors")
    model = build_transformer()
    model.blocks = model.blocks[:1]
    apply_adapters(model, read(path))
    expected = base_arrays()[f"{Q}.weight"] + product(pair(Q))
    np.testing.assert_allclose(np.array(model.blocks[0].self_attn.q.weight), expected, rtol=1e-6, atol=1e-6)


def test_a_module_that_lacks_a_layer_is_a_wrong_call(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors")
    block = build_transformer().blocks[0]
    del block.ffn
    with pytest.raises(ValueError, match=r"no parameter blocks\.0\.ffn\.fc1\.weight, which a\.safetensors"):
        apply_adapters(block, read(path), prefix="blocks.0.")


def test_running_beside_a_model_costs_little_more_than_the_file(tmp_path):
    config_layers = (Q, "blocks.1.self_attn.o", "blocks.1.cross_attn.k", FC1, FC2)
    path = write_pairs(tmp_path / "a.safetensors", rank=512, layers=config_layers)
    model, adapters = build_quantized(), read(path)
    mx.eval(model.parameters())
    gc.collect()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    apply_adapters(model, adapters)
    # One layer's scales, and the tests for numbers that are not finite.
    assert mx.get_peak_memory() - before <= 1.2 * adapters.nbytes


def test_an_empty_set_changes_nothing():
    adapters, model = read(), build_transformer()
    assert not adapters
    assert (adapters.notices, adapters.nbytes, adapters.targets) == ((), 0, frozenset())
    apply_adapters(model, adapters)
    np.testing.assert_array_equal(np.array(model.head.head.weight), base_arrays()["head.head.weight"])


@pytest.mark.parametrize("build", [build_transformer, build_quantized], ids=["dense", "quantized"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, build, value):
    down, up = pair(Q)
    down[1, 2] = value
    path = write(tmp_path / "bad.safetensors", {f"{Q}.lora_A.weight": down, f"{Q}.lora_B.weight": up})
    text = f"bad.safetensors: {Q}.lora_A.weight contains numbers that are NaN or infinite"
    with pytest.raises(AdapterError, match=re.escape(text)):
        apply_adapters(build(), read(path))


def test_a_strength_beyond_the_range_of_the_weights_is_refused(tmp_path):
    path = write_pairs(tmp_path / "a.safetensors", layers=(Q,))
    text = r"q\.weight: exceeds the range of float16 with a\.safetensors\. Lower the strength"
    with pytest.raises(AdapterError, match=text):
        apply_adapters(build_transformer(dtype=mx.float16), read((path, 1e6)))
