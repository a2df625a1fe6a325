"""Every kind of change, on dense weights, against float64 arithmetic."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.lora.apply import apply_adapters, merged_weight
from tests.lora.adapter_files import (
    IMAGE_TO_VIDEO,
    RANK,
    assert_changed,
    base_arrays,
    pair,
    product,
    read,
    write,
)
from tests.models.networks import build_transformer
from tests.parity.golden import fill

Q = "blocks.0.self_attn.q"
STRENGTH = 0.75


def apply(path, strength=STRENGTH, model=None):
    model = model or build_transformer()
    apply_adapters(model, read((path, strength), config=model.config, strict=True))
    return model


def low_rank(path: str, factors, alpha: float | None = None) -> dict[str, np.ndarray]:
    arrays = {f"{path}.lora_down.weight": factors[0], f"{path}.lora_up.weight": factors[1]}
    return arrays if alpha is None else arrays | {f"{path}.alpha": np.array(alpha, np.float32)}


def test_whole_deltas_of_every_parameter_are_added(tmp_path):
    diffs = {
        "head.head.diff": ("head.head.weight", fill((64, 64), 1)),
        "head.head.diff_b": ("head.head.bias", fill((64,), 2)),
        "head.diff_m": ("head.modulation", fill((1, 2, 64), 3)),
        "blocks.0.diff_m": ("blocks.0.modulation", fill((1, 6, 64), 4)),
        "blocks.1.modulation.diff": ("blocks.1.modulation", fill((1, 6, 64), 5)),
        "blocks.0.norm3.diff": ("blocks.0.norm3.weight", fill((64,), 6)),
        "blocks.0.norm3.diff_b": ("blocks.0.norm3.bias", fill((64,), 7)),
        "blocks.1.norm3.w_norm": ("blocks.1.norm3.weight", fill((64,), 8)),
        "blocks.1.norm3.b_norm": ("blocks.1.norm3.bias", fill((64,), 9)),
        "blocks.0.self_attn.norm_q.diff": ("blocks.0.self_attn.norm_q.weight", fill((64,), 10)),
        "time_projection.1.diff_b": ("time_projection.bias", fill((384,), 11)),
        "blocks.1.ffn.2.diff": ("blocks.1.ffn.fc2.weight", fill((64, 96), 12)),
        "patch_embedding.diff": ("patch_embedding_proj.weight", fill((64, 16, 1, 2, 2), 13)),
    }
    arrays = {f"diffusion_model.{key}": delta for key, (_, delta) in diffs.items()}
    model = apply(write(tmp_path / "lightx2v.safetensors", arrays))
    assert_changed(model, {name: STRENGTH * delta.astype(np.float64) for name, delta in diffs.values()})


def test_diffusers_tables_take_deltas_too(tmp_path):
    arrays = {
        "transformer.blocks.0.scale_shift_table.diff": fill((1, 6, 64), 1),
        "transformer.scale_shift_table.diff": fill((1, 2, 64), 2),
        "transformer.blocks.0.norm2.w_norm": fill((64,), 3),
    }
    names = ("blocks.0.modulation", "head.modulation", "blocks.0.norm3.weight")
    deltas = {
        name: STRENGTH * delta.astype(np.float64) for name, delta in zip(names, arrays.values(), strict=True)
    }
    assert_changed(apply(write(tmp_path / "a.safetensors", arrays)), deltas)


def test_a_pair_a_delta_and_a_bias_of_one_layer_all_add_up(tmp_path):
    factors, delta, bias = pair(Q), fill((64, 64), 2), fill((64,), 3)
    arrays = low_rank(Q, factors, alpha=2.0) | {f"{Q}.diff": delta, f"{Q}.lora_up.bias": bias}
    scale = STRENGTH * 2.0 / RANK
    expected = {
        f"{Q}.weight": product(factors, scale) + STRENGTH * delta.astype(np.float64),
        f"{Q}.bias": scale * bias.astype(np.float64),  # scaled like its pair
    }
    assert_changed(apply(write(tmp_path / "a.safetensors", arrays)), expected)


def test_a_value_replaces_in_proportion_to_the_strength(tmp_path):
    value = fill((64, 64), 1)
    before = base_arrays()[f"{Q}.weight"].astype(np.float64)
    path = write(tmp_path / "a.safetensors", {f"diffusion_model.{Q}.set_weight": value})
    assert_changed(apply(path), {f"{Q}.weight": STRENGTH * (value - before)})


def test_loha_is_the_elementwise_product_of_two_low_rank_matrices(tmp_path):
    factors = {
        "hada_w1_a": fill((64, 3), 1), "hada_w1_b": fill((3, 64), 2),
        "hada_w2_a": fill((64, 3), 3), "hada_w2_b": fill((3, 64), 4),
    }  # fmt: skip
    arrays = {f"diffusion_model.{Q}.{role}": factor for role, factor in factors.items()}
    arrays[f"diffusion_model.{Q}.alpha"] = np.array([1.5], np.float32)
    first, second, third, fourth = (factor.astype(np.float64) for factor in factors.values())
    delta = (first @ second) * (third @ fourth) * (STRENGTH * 1.5 / 3)
    assert_changed(apply(write(tmp_path / "a.safetensors", arrays)), {f"{Q}.weight": delta})


@pytest.mark.parametrize(
    ("factors", "scale"),
    [
        # Both sides whole: alpha does not count.
        ({"lokr_w1": (4, 8), "lokr_w2": (24, 8)}, 1.0),
        ({"lokr_w1": (4, 8), "lokr_w2_a": (24, 2), "lokr_w2_b": (2, 8)}, 3.0 / 2),
        ({"lokr_w1_a": (4, 3), "lokr_w1_b": (3, 8), "lokr_w2": (24, 8)}, 3.0 / 3),
        # Both sides factored: the second one's rank counts.
        ({"lokr_w1_a": (4, 3), "lokr_w1_b": (3, 8), "lokr_w2_a": (24, 2), "lokr_w2_b": (2, 8)}, 3.0 / 2),
    ],
    ids=["whole", "second factored", "first factored", "both factored"],
)
def test_lokr_is_a_kronecker_product(tmp_path, factors, scale):
    made = {role: fill(shape, salt) for salt, (role, shape) in enumerate(factors.items(), 1)}
    path = "lycoris_blocks_1_ffn_net_0_proj"  # SimpleTuner's spelling
    arrays = {f"{path}.{role}": factor for role, factor in made.items()}
    arrays[f"{path}.alpha"] = np.array(3.0, np.float32)

    def side(role: str) -> np.ndarray:
        if role in made:
            return made[role].astype(np.float64)
        return made[f"{role}_a"].astype(np.float64) @ made[f"{role}_b"].astype(np.float64)

    delta = STRENGTH * scale * np.kron(side("lokr_w1"), side("lokr_w2"))
    assert_changed(apply(write(tmp_path / "a.safetensors", arrays)), {"blocks.1.ffn.fc1.weight": delta})


@pytest.mark.parametrize(("shape", "axis"), [((96,), 1), ((96, 1), 1), ((1, 64), 0)])
def test_dora_brings_rows_or_columns_to_their_lengths(tmp_path, shape, axis):
    layer = "blocks.1.ffn.fc1"
    factors, lengths = pair(layer), fill(shape, 5, 0.5, 1.5)
    arrays = low_rank("diffusion_model.blocks.1.ffn.0", factors, alpha=2.0)
    arrays["diffusion_model.blocks.1.ffn.0.dora_scale"] = lengths
    before = base_arrays()[f"{layer}.weight"].astype(np.float64)
    changed = before + product(factors, 2.0 / RANK)
    norms = np.linalg.norm(changed, axis=axis, keepdims=True)
    changed *= lengths.astype(np.float64).reshape(norms.shape) / norms
    path = write(tmp_path / "a.safetensors", arrays)
    # The strength moves the weight from what it was to what DoRA makes of it.
    assert_changed(apply(path), {f"{layer}.weight": STRENGTH * (changed - before)})


@pytest.mark.parametrize("kernel", [True, False])
def test_convolution_factors_change_the_patch_embedding(tmp_path, kernel):
    down, up = pair("patch_embedding_proj")
    if kernel:
        down, up = down.reshape(RANK, 16, 1, 2, 2), up.reshape(64, RANK, 1, 1, 1)
    arrays = low_rank("diffusion_model.patch_embedding", (down, up))
    # Row-major over channel, time, height and width: as the kernel itself is flattened.
    expected = {"patch_embedding_proj.weight": product((down, up), STRENGTH)}
    assert_changed(apply(write(tmp_path / "a.safetensors", arrays)), expected)


def test_a_narrower_patch_embedding_is_left_out_and_said_so(tmp_path):
    factors = pair("patch_embedding_proj")
    arrays = low_rank("patch_embedding", factors) | low_rank(Q, pair(Q))
    path = write(tmp_path / "t2v.safetensors", arrays)
    model = build_transformer(IMAGE_TO_VIDEO)
    adapters = read(path, config=IMAGE_TO_VIDEO)
    apply_adapters(model, adapters)
    assert_changed(model, {f"{Q}.weight": product(pair(Q))})
    assert "2 of a patch embedding for 16 channels, where this model has 36" in adapters.notices[1]


def test_half_precision_factors_are_widened_before_they_are_multiplied(tmp_path):
    # The product reaches 6e5, beyond float16, before the scale brings it back.
    down, up = np.full((RANK, 64), 300, np.float16), np.full((64, RANK), 500, np.float16)
    path = write(tmp_path / "a.safetensors", low_rank(Q, (down, up), alpha=RANK / 1024))
    expected = product((down, up), STRENGTH / 1024)
    assert_changed(apply(path), {f"{Q}.weight": expected}, {"rtol": 1e-6, "atol": 0})


@pytest.mark.parametrize("strength", [-1.0, 0.3, 2.5])
def test_any_strength_is_plain_arithmetic(tmp_path, strength):
    path = write(tmp_path / "a.safetensors", low_rank(Q, pair(Q)))
    assert_changed(apply(path, strength), {f"{Q}.weight": product(pair(Q), strength)})


def test_strength_zero_changes_nothing_and_says_so(tmp_path):
    adapters = read((tmp_path / "never_opened.safetensors", 0.0))
    assert not adapters
    assert adapters.notices == ("never_opened.safetensors: strength 0, left out.",)


def test_several_adapters_are_rounded_once(tmp_path):
    # Each delta alone is lost beside a bfloat16 weight; together they are not.
    paths = []
    for index in range(8):
        down, up = np.zeros((1, 64), np.float32), np.zeros((64, 1), np.float32)
        down[0, 0], up[0, 0] = 1.0, 1e-3
        paths.append(write(tmp_path / f"{index}.safetensors", low_rank(Q, (down, up))))
    model = build_transformer(dtype=mx.bfloat16)
    layer = model.blocks[0].self_attn.q
    layer.weight = mx.ones_like(layer.weight)
    apply_adapters(model, read(*paths))
    assert layer.weight.dtype == mx.bfloat16
    assert layer.weight[0, 0].item() == 1.0078125  # 1.008 rounded once; one by one it stays 1
    assert layer.weight[1, 0].item() == 1.0


def test_order_counts_where_a_value_replaces(tmp_path):
    value = fill((64, 64), 1)
    sets = write(tmp_path / "sets.safetensors", {f"{Q}.set_weight": value})
    adds = write(tmp_path / "adds.safetensors", low_rank(Q, pair(Q)))
    before = base_arrays()[f"{Q}.weight"].astype(np.float64)
    for paths, expected in (
        ((sets, adds), value - before + product(pair(Q))),
        ((adds, sets), value - before),
    ):
        model = build_transformer()
        apply_adapters(model, read(*paths))
        assert_changed(model, {f"{Q}.weight": expected})


def test_a_merged_tensor_is_what_applying_makes_of_it(tmp_path):
    path = write(tmp_path / "a.safetensors", low_rank(Q, pair(Q)) | {"head.diff_m": fill((1, 2, 64), 3)})
    adapters, model, base = read((path, STRENGTH)), build_transformer(), base_arrays()
    apply_adapters(model, adapters)
    assert adapters.targets == {f"{Q}.weight", "head.modulation"}
    for name, found in (
        (f"{Q}.weight", model.blocks[0].self_attn.q.weight),
        ("head.modulation", model.head.modulation),
    ):
        merged = merged_weight(adapters, name, mx.array(base[name]))
        assert merged.dtype == mx.float32
        np.testing.assert_array_equal(np.array(merged), np.array(found))
    untouched = mx.array(base["head.head.weight"])
    np.testing.assert_array_equal(np.array(merged_weight(adapters, "head.head.weight", untouched)), untouched)


def test_numbers_of_the_file_are_counted(tmp_path):
    path = write(tmp_path / "a.safetensors", low_rank(Q, pair(Q), alpha=1.0))
    # The alpha is read with the header; the factors are what is held.
    assert read(path).nbytes == 4 * math.prod((2, RANK, 64))
    assert read(path, path).nbytes == 2 * read(path).nbytes
