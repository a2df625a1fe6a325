"""Control adapters: the patch embedding widened by zeros, then changed, as float64 says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_video.errors import AdapterError
from mlx_video.lora.apply import apply_adapters, merged_weight
from mlx_video.lora.widening import PATCH_WEIGHT, Widening
from mlx_video.models.transformer import WanTransformer
from tests.lora.adapter_files import (
    DENSE,
    IMAGE_TO_VIDEO,
    RANK,
    Arrays,
    base_arrays,
    build_quantized,
    pair,
    product,
    read,
    write,
)
from tests.models.networks import LATENTS, TRANSFORMER, build_transformer, forward
from tests.parity.golden import fill

WIDE = 32
DOWN, UP = fill((RANK, WIDE * 4), 7, 0.5), fill((64, RANK), 8, 0.5)
CONTROL = mx.array(fill(LATENTS.shape, 9))
PATCH = "diffusion_model.patch_embedding"
Q = "blocks.0.self_attn.q"
STATED = {f"{PATCH}.reshape_weight": np.array([64, WIDE, 1, 2, 2], np.int64)}
# float32 sums in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def wide_pair(*, is_kernel: bool = True) -> Arrays:
    """A pair for 32 channels, as a convolution's or as a matrix's; and one for another layer."""
    down, up = (DOWN.reshape(RANK, WIDE, 1, 2, 2), UP.reshape(64, RANK, 1, 1, 1)) if is_kernel else (DOWN, UP)
    own = {f"{PATCH}.lora_A.weight": down, f"{PATCH}.lora_B.weight": up, f"{PATCH}.alpha": np.float32(2)}
    other = pair(Q)
    return own | {
        f"diffusion_model.{Q}.lora_A.weight": other[0],
        f"diffusion_model.{Q}.lora_B.weight": other[1],
    }


def padded(matrix: np.ndarray) -> np.ndarray:
    return np.pad(matrix.astype(np.float64), [(0, 0), (0, WIDE * 4 - matrix.shape[1])])


def expected_weight(strength: float = 1.0) -> np.ndarray:
    return padded(base_arrays()[PATCH_WEIGHT]) + strength * product((DOWN, UP), 2 / RANK)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write(tmp_path / "control.safetensors", wide_pair() | STATED)


@pytest.mark.parametrize("states_shape", [True, False])
@pytest.mark.parametrize("is_kernel", [True, False])
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_the_patch_embedding_is_widened_and_changed(tmp_path, strength, is_kernel, states_shape):
    arrays = wide_pair(is_kernel=is_kernel) | (STATED if states_shape else {})
    adapters = read((write(tmp_path / "control.safetensors", arrays), strength))
    assert adapters.widening == Widening(16, WIDE)
    assert any("from 16 to 32 channels" in text and "--control-video" in text for text in adapters.notices)
    transformer = build_transformer()
    apply_adapters(transformer, adapters)
    assert transformer.config == replace(TRANSFORMER, in_dim=WIDE)
    found = np.array(transformer.patch_embedding_proj.weight)
    np.testing.assert_allclose(found, expected_weight(strength), **DENSE)
    merged = merged_weight(adapters, PATCH_WEIGHT, mx.array(base_arrays()[PATCH_WEIGHT]))
    np.testing.assert_array_equal(np.array(merged), found)


def test_a_whole_delta_widens_too(tmp_path):
    delta = fill((64, WIDE, 1, 2, 2), 3, 0.5)
    adapters = read(write(tmp_path / "control.safetensors", {f"{PATCH}.diff": delta}))
    transformer = build_transformer()
    apply_adapters(transformer, adapters)
    expected = padded(base_arrays()[PATCH_WEIGHT]) + delta.reshape(64, -1)
    np.testing.assert_allclose(np.array(transformer.patch_embedding_proj.weight), expected, **DENSE)


@pytest.mark.parametrize("build", [build_transformer, build_quantized], ids=["dense", "4 bits"])
def test_beside_the_layers_it_does_what_it_does_merged(adapter: Path, build):
    found = {}
    for mode in ("auto", "side"):
        transformer = build()
        apply_adapters(transformer, read(adapter), mode=mode)
        found[mode] = forward(transformer, concat_latents=CONTROL)
    np.testing.assert_allclose(found["side"], found["auto"], **CLOSE)
    other = build()
    apply_adapters(other, read(adapter))
    assert np.abs(forward(other, concat_latents=-CONTROL) - found["auto"]).max() > 1e-3


def test_without_its_changes_the_wider_transformer_is_the_narrow_one():
    transformer, wide = build_transformer(), build_transformer()
    wide.widen_input(WIDE)
    expected = forward(transformer)
    np.testing.assert_allclose(forward(wide, concat_latents=CONTROL), expected, **CLOSE)
    with pytest.raises(ValueError, match="16 latent channels, the transformer takes 32"):
        forward(wide)


@pytest.mark.parametrize("mode", ["auto", "side"])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_adapter_for_the_narrow_input_counts_for_its_channels(adapter: Path, tmp_path, is_first, mode):
    down, up = pair("patch_embedding_proj", salt=20)
    narrow = {"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}
    paths = [write(tmp_path / "style.safetensors", narrow), adapter]
    adapters = read(*(paths if is_first else paths[::-1]))
    transformer = build_transformer()
    apply_adapters(transformer, adapters, mode=mode)
    layer = transformer.patch_embedding_proj
    expected = expected_weight() + padded(product((down, up)))
    patches = fill((5, WIDE * 4), 2)
    found = patches @ np.array(layer.weight).T
    if "unmerged" in layer:
        found = np.array(layer.unmerged(mx.array(patches), mx.array(found)))
    np.testing.assert_allclose(found, patches @ expected.T, **CLOSE)


def test_a_wider_model_takes_the_adapter_as_it_is(adapter: Path):
    config = replace(TRANSFORMER, in_dim=WIDE)
    adapters = read(adapter, config=config)
    assert adapters.widening is None
    transformer = WanTransformer(config)
    wide = build_transformer()
    wide.widen_input(WIDE)
    transformer.update(wide.parameters())
    apply_adapters(transformer, adapters)
    np.testing.assert_allclose(np.array(transformer.patch_embedding_proj.weight), expected_weight(), **DENSE)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            IMAGE_TO_VIDEO,
            "fit nothing in the model: .* of a patch embedding for 32 channels, where this model has 36",
        ),
        (replace(TRANSFORMER, model_type="vace"), "enlarges it from 16 to 32 channels"),
        (replace(TRANSFORMER, model_type="ti2v", in_dim=16), "enlarges it from 16 to 32 channels"),
    ],
)
def test_models_that_take_more_than_text_are_not_widened(adapter: Path, config, text):
    with pytest.raises(AdapterError, match=text):
        read(adapter, config=config, strict=True)


@pytest.mark.parametrize(
    ("stated", "text"),
    [
        (
            np.array([64, 36, 1, 2, 2]),
            r"reshape_weight enlarges it to \[64, 36, 1, 2, 2\], .* fit \[64, 128\]",
        ),
        (
            np.array([64, 16, 1, 2, 2]),
            r"reshape_weight enlarges it to \[64, 16, 1, 2, 2\], .* fit \[64, 128\]",
        ),
        (np.array([64.5, 2], np.float32), r"reshape_weight holds \[64.5, 2.0\] instead of a shape"),
        (np.array([0, 2]), r"instead of a shape"),
    ],
)
def test_a_shape_that_is_not_that_of_the_other_tensors_is_refused(tmp_path, stated, text):
    path = write(tmp_path / "control.safetensors", wide_pair() | {f"{PATCH}.reshape_weight": stated})
    with pytest.raises(AdapterError, match=text):
        read(path)


def test_a_shape_without_a_change_is_refused(tmp_path):
    arrays = {f"{PATCH}.reshape_weight": np.array([64, 16, 1, 2, 2])}
    with pytest.raises(AdapterError, match="but no pair that it belongs to"):
        read(write(tmp_path / "control.safetensors", arrays))


def test_sets_that_widen_differ_from_those_that_do_not(adapter: Path):
    adapters = read(adapter)
    assert adapters.with_widening(Widening(16, 48)).identity != adapters.identity == read(adapter).identity
