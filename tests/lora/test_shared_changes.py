"""Adapters of a part of each weight are the parts of the changed weight, whatever their kind."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import AdapterError
from mlx_video.lora.apply import merged_weight
from mlx_video.lora.shared_changes import share_adapters
from mlx_video.weights.block_shares import BlockShare, share_blocks
from tests.lora.adapter_files import base_arrays, pair, product, read, write
from tests.models.networks import TRANSFORMER
from tests.parity.golden import fill

ROWS, COLUMNS = "blocks.0.self_attn.q", "blocks.1.self_attn.o"
KINDS = {
    "pair": lambda layer: dict(zip(("lora_A.weight", "lora_B.weight"), pair(layer), strict=True)),
    "diff": lambda layer: {"diff": fill((64, 64), 1)},
    "LoKr": lambda layer: {"lokr_w1": fill((8, 8), 1), "lokr_w2": fill((8, 8), 2)},
    "LoHa": lambda layer: {
        f"hada_w{index}_{part}": fill((64, 3) if part == "a" else (3, 64), index)
        for index in (1, 2)
        for part in "ab"
    },
}


def shares(size: int = 2) -> list[BlockShare]:
    return [share_blocks(TRANSFORMER, rank, size) for rank in range(size)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layer", "axis"), [(ROWS, 0), (COLUMNS, 1)])
def test_changed_parts_put_together_are_the_changed_weight(tmp_path, kind, layer, axis):
    arrays = {f"diffusion_model.{layer}.{role}": array for role, array in KINDS[kind](layer).items()}
    adapters, name = read((write(tmp_path / "a.safetensors", arrays), 0.5)), f"{layer}.weight"
    whole = mx.array(base_arrays()[name].astype(np.float32))
    parts = []
    for share in shares():
        own = share.of_parameter(name)
        cut = mx.take(whole, mx.array([*own.part]), axis=axis)
        parts.append(merged_weight(share_adapters(adapters, share), name, cut))
    found, expected = mx.concatenate(parts, axis=axis), merged_weight(adapters, name, whole)
    assert not mx.allclose(expected, whole)
    assert mx.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_factors_beside_a_layer_are_cut_where_the_layer_is(tmp_path):
    arrays = {
        f"diffusion_model.{layer}.{role}": array
        for layer in (ROWS, COLUMNS)
        for role, array in KINDS["pair"](layer).items()
    }
    adapters = read(write(tmp_path / "a.safetensors", arrays))
    for layer, axis in ((ROWS, 0), (COLUMNS, 1)):
        products = []
        for share in shares():
            down, up, scale = share_adapters(adapters, share).factors(f"{layer}.weight")
            products.append(np.array((up * scale) @ down))
        assert products[0].size == 64 * 32
        np.testing.assert_allclose(
            np.concatenate(products, axis=axis), product(pair(layer)), rtol=1e-5, atol=1e-6
        )


def test_a_bias_that_is_added_once_is_changed_once(tmp_path):
    arrays = {
        f"{ROWS}.diff_b": fill((64,), 5),
        f"{COLUMNS}.diff_b": fill((64,), 6),
        "head.head.diff": fill((64, 64), 7),
    }
    adapters = read(write(tmp_path / "a.safetensors", arrays))
    first, second = (share_adapters(adapters, share) for share in shares())
    assert f"{COLUMNS}.bias" in first.targets
    assert f"{COLUMNS}.bias" not in second.targets
    zeros = mx.zeros((32,))
    found = np.concatenate([np.array(merged_weight(own, f"{ROWS}.bias", zeros)) for own in (first, second)])
    np.testing.assert_allclose(found, fill((64,), 5), rtol=1e-6)
    # What is whole everywhere is changed everywhere.
    assert first.changes["head.head.weight"] == second.changes["head.head.weight"]


def test_lengths_of_whole_rows_are_refused(tmp_path):
    down, up = pair(ROWS)
    arrays = {"lora_A.weight": down, "lora_B.weight": up, "dora_scale": fill((64,), 3, 0.2, 1.0)}
    path = write(
        tmp_path / "a.safetensors", {f"diffusion_model.{ROWS}.{role}": each for role, each in arrays.items()}
    )
    with pytest.raises(AdapterError, match=r"a\.safetensors: has DoRA magnitudes.*--parallel context"):
        share_adapters(read(path), shares()[0])
