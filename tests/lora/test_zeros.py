"""Adapters that are zero throughout, or in part: what of them counts, and what is said of it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import AdapterError
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.apply import apply_adapters, merged_weight
from tests.lora.adapter_files import (
    RANK,
    arrays_of,
    assert_changed,
    base_arrays,
    build_quantized,
    pair,
    product,
    read,
    write,
)
from tests.models.networks import build_transformer
from tests.parity.golden import fill

Q, K = "blocks.0.self_attn.q", "blocks.1.cross_attn.k"
PREFIX = "diffusion_model."
DOWN, UP = pair(Q)
ALPHA = np.array(2.0, np.float32)
LOHA = {"hada_w1_a": (64, 3), "hada_w1_b": (3, 64), "hada_w2_a": (64, 3), "hada_w2_b": (3, 64)}
LOKR = {"lokr_w1": (8, 8), "lokr_w2": (8, 8)}
FACTORED = {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 8), "lokr_w2": (8, 8)}


def zeros_like(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


def layer(tensors: dict[str, np.ndarray], path: str = Q) -> dict[str, np.ndarray]:
    return {f"{PREFIX}{path}.{role}": array for role, array in tensors.items()}


def filled(shapes: dict[str, tuple[int, ...]], zero: str) -> dict[str, np.ndarray]:
    """Random tensors, but for one that is zero."""
    made = {role: fill(shape, salt) for salt, (role, shape) in enumerate(shapes.items(), 1)}
    return made | {zero: zeros_like(made[zero])}


EMPTY = {
    "up of zeros": layer({"lora_down.weight": DOWN, "lora_up.weight": zeros_like(UP), "alpha": ALPHA}),
    "PEFT's B": layer({"lora_A.weight": DOWN, "lora_B.weight": zeros_like(UP)}),
    "down of zeros": layer({"lora_A.weight": zeros_like(DOWN), "lora_B.weight": UP}),
    "both": layer({"lora_A.weight": zeros_like(DOWN), "lora_B.weight": zeros_like(UP)}),
    "minus zero": layer({"lora_A.weight": DOWN, "lora_B.weight": -zeros_like(UP)}),
    "alpha 0 too": layer({"lora_A.weight": DOWN, "lora_B.weight": zeros_like(UP), "alpha": 0 * ALPHA}),
    "a scaled bias": layer(
        {"lora_A.weight": DOWN, "lora_B.weight": zeros_like(UP), "lora_B.bias": np.zeros(64, np.float32)}
    ),
    "LoHa": layer(filled(LOHA, "hada_w1_a") | {"alpha": ALPHA}),
    "LoHa, second": layer(filled(LOHA, "hada_w2_b")),
    "LoKr, first": layer(filled(LOKR, "lokr_w1")),
    "LoKr, second": layer(filled(LOKR, "lokr_w2") | {"alpha": ALPHA}),
    "LoKr, factored": layer(filled(FACTORED, "lokr_w1_b")),
    "a delta": layer({"diff": np.zeros((64, 64), np.float32)}),
    "a bias": layer({"diff_b": np.zeros(64, np.float32)}),
    "a norm": layer({"w_norm": np.zeros(64, np.float32)}, "blocks.0.norm3"),
    "a modulation": layer({"diff_m": np.zeros((1, 6, 64), np.float32)}, "blocks.0"),
    "a convolution": layer(
        {
            "lora_down.weight": pair("patch_embedding_proj")[0].reshape(RANK, 16, 1, 2, 2),
            "lora_up.weight": np.zeros((64, RANK, 1, 1, 1), np.float32),
        },
        "patch_embedding",
    ),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_an_adapter_of_zeros_is_said_to_change_nothing(tmp_path, kind):
    adapters = read(write(tmp_path / "style.safetensors", EMPTY[kind]))
    assert not adapters
    (notice,) = adapters.notices
    assert notice.startswith("style.safetensors: changes nothing: what it holds for 1 layer is zero")
    zero = next(name for name, array in EMPTY[kind].items() if array.ndim and not array.any())
    assert f"(first: {zero})" in notice
    assert "Train it again, or download it again." in notice


@pytest.mark.parametrize("kind", EMPTY)
def test_an_adapter_of_zeros_is_refused_if_strict(tmp_path, kind):
    path = write(tmp_path / "style.safetensors", EMPTY[kind])
    with pytest.raises(AdapterError, match=r"style.safetensors: changes nothing.*Leave out --strict-lora"):
        read(path, strict=True)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_zeros_are_zeros(tmp_path, dtype):
    path = tmp_path / "style.safetensors"
    arrays = {name: mx.array(array).astype(dtype) for name, array in EMPTY["PEFT's B"].items()}
    mx.save_safetensors(str(path), arrays)
    assert "changes nothing" in read(path).notices[0]


def test_zeros_in_a_torch_file_are_told_as_well(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({name: torch.tensor(a) for name, a in EMPTY["PEFT's B"].items()}, tmp_path / "style.pt")
    assert "style.pt: changes nothing" in read(tmp_path / "style.pt").notices[0]


@pytest.mark.parametrize("side", ["up", "down"])
def test_one_number_that_is_not_zero_makes_a_pair_count(tmp_path, side):
    factors = {"up": np.zeros_like(UP), "down": np.zeros_like(DOWN)}
    factors |= {"down": DOWN} if side == "up" else {"up": UP}
    factors[side][-1, -1] = 1e-6
    arrays = layer({"lora_A.weight": factors["down"], "lora_B.weight": factors["up"]})
    adapters = read(write(tmp_path / "style.safetensors", arrays), strict=True)
    assert adapters.targets == {f"{Q}.weight"}
    assert adapters.notices[0].startswith("style.safetensors: 1 of 1 pair, 1 layer changed, rank 4,")


def test_alpha_zero_stands_for_the_rank_and_is_no_zero(tmp_path):
    arrays = layer({"lora_A.weight": DOWN, "lora_B.weight": UP, "alpha": 0 * ALPHA})
    model = build_transformer()
    apply_adapters(model, read(write(tmp_path / "a.safetensors", arrays), strict=True))
    assert_changed(model, {f"{Q}.weight": product((DOWN, UP))})


def test_zeros_among_others_are_counted_and_left_out(tmp_path):
    arrays = EMPTY["PEFT's B"] | layer(dict(zip(("lora_A.weight", "lora_B.weight"), pair(K), strict=True)), K)
    arrays |= layer({"diff_b": np.zeros(64, np.float32)}, "head.head")
    adapters = read(write(tmp_path / "style.safetensors", arrays), strict=True)
    assert adapters.targets == {f"{K}.weight"}
    assert adapters.notices == (
        "style.safetensors: 1 of 2 pairs, 1 layer changed, rank 4, alpha absent, scale 1 × strength 1 = 1, "
        "2 layers left as they are: zeros.",
    )
    model = build_transformer()
    apply_adapters(model, adapters)
    assert_changed(model, {f"{K}.weight": product(pair(K))})


def test_the_part_of_a_layer_that_is_not_zero_counts(tmp_path):
    bias = fill((64,), 3)
    arrays = EMPTY["PEFT's B"] | layer({"diff_b": bias})
    adapters = read(write(tmp_path / "style.safetensors", arrays), strict=True)
    assert adapters.targets == {f"{Q}.bias"}
    assert (
        adapters.notices[0] == "style.safetensors: 0 of 1 pair, 1 whole delta, 1 layer changed, strength 1."
    )
    model = build_transformer()
    apply_adapters(model, adapters)
    assert_changed(model, {f"{Q}.bias": bias})


def test_a_value_of_zeros_is_a_change(tmp_path):
    path = write(tmp_path / "a.safetensors", layer({"set_weight": np.zeros((64, 64), np.float32)}))
    model = build_transformer()
    apply_adapters(model, read(path, strict=True))
    assert_changed(model, {f"{Q}.weight": -base_arrays()[f"{Q}.weight"].astype(np.float64)})


@pytest.mark.parametrize("are_kept", [True, False])
def test_magnitudes_count_beside_a_pair_of_zeros(tmp_path, are_kept):
    before = base_arrays()[f"{Q}.weight"].astype(np.float64)
    lengths = np.linalg.norm(before, axis=1) * (1 if are_kept else 1.5)
    arrays = layer(
        {"lora_A.weight": DOWN, "lora_B.weight": zeros_like(UP), "dora_scale": lengths.astype(np.float32)}
    )
    adapters = read(write(tmp_path / "style.safetensors", arrays), strict=True)
    assert adapters.notices[0].endswith(
        ", 1 pair of zeros, of which the magnitudes alone count: they may change nothing."
    )
    model = build_transformer()
    apply_adapters(model, adapters)
    assert_changed(model, {f"{Q}.weight": (0 if are_kept else 0.5) * before})


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_damaged_factor_beside_zeros_is_refused_as_before(tmp_path, number):
    arrays = layer({"lora_A.weight": DOWN.copy(), "lora_B.weight": zeros_like(UP)})
    arrays[f"{PREFIX}{Q}.lora_A.weight"][1, 2] = number
    adapters = read(write(tmp_path / "style.safetensors", arrays), strict=True)
    with pytest.raises(AdapterError, match="lora_A.weight contains numbers that are NaN or infinite"):
        apply_adapters(build_transformer(), adapters)


@pytest.mark.parametrize("mode", ["auto", "merge", "side"])
def test_zeros_leave_quantized_layers_untouched(tmp_path, mode):
    arrays = EMPTY["PEFT's B"] | layer({"diff": np.zeros((64, 64), np.float32)}, K)
    arrays |= layer({"diff_b": fill((64,), 3)}, "head.head")
    model, plain = build_quantized(), arrays_of(build_quantized())
    apply_adapters(model, read(write(tmp_path / "a.safetensors", arrays)), mode=mode)
    found = arrays_of(model)
    assert found.keys() == plain.keys()
    assert all(np.array_equal(found[name], plain[name]) for name in plain if name != "head.head.bias")


def test_zeros_are_not_merged_into_converted_tensors(tmp_path):
    adapters = read(write(tmp_path / "a.safetensors", EMPTY["a delta"]))
    weight = mx.array(base_arrays()[f"{Q}.weight"])
    assert adapters.targets == frozenset()
    assert merged_weight(adapters, f"{Q}.weight", weight) is weight


def test_of_a_usual_file_a_row_of_each_factor_is_read(tmp_path, monkeypatch):
    arrays = layer({"lora_A.weight": DOWN, "lora_B.weight": UP})
    path, read_rows = write(tmp_path / "a.safetensors", arrays), []
    file = AdapterFile(path)
    whole = file._source.read

    def counted(name, rows=None):
        read_rows.append(rows)
        return whole(name, rows)

    monkeypatch.setattr(file._source, "read", counted)
    assert [file.is_zero(name) for name in arrays] == [False, False]
    assert read_rows == [slice(0, 1), slice(0, 1)]
