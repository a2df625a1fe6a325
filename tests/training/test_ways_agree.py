"""Gradients are the same whether blocks are kept, checkpointed or streamed, weights dense or quantized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_unflatten

from mlx_video.loading.components import load_transformer
from mlx_video.models.block_context import AttentionSite
from mlx_video.training import attention
from mlx_video.training.adapter import Adapter
from mlx_video.training.attention import attend_for_training
from mlx_video.training.gradients import resident_gradients
from mlx_video.training.loss import NoisyExample
from mlx_video.training.network import open_network
from mlx_video.training.trainable import Values
from tests.models.networks import relative_error
from tests.parity.golden import fill
from tests.training.small_training import DrawnExamples, plan_small, write_model


@pytest.fixture(scope="module", params=[None, 4, 8], ids=["float32", "4 bits", "8 bits"])
def model(request, tmp_path_factory) -> Path:
    options = {} if request.param is None else {"quantize": True, "bits": request.param, "group_size": 32}
    return write_model(tmp_path_factory.mktemp("model"), **options)


def gradients_of(model: Path, tmp_path: Path, network: str = "lora", **options) -> tuple[float, Values]:
    ways = {name: options.pop(name) for name in ("streams", "checkpoints") if name in options}
    plan = replace(plan_small(model, tmp_path, network=network, **options), **ways)
    adapter = Adapter(plan.adapter, 0)
    put_numbers(adapter)
    with open_network(plan, adapter) as network:
        loss, gradients = network.gradients(example_of(plan))
        mx.eval(loss, gradients)
    return loss.item(), gradients


def put_numbers(adapter: Adapter) -> None:
    """Numbers where there were zeros, which hide the gradients of the other factors."""
    values = adapter.trainable.values()
    zeros = {name: each for name, each in values.items() if not mx.any(each)}
    adapter.trainable.put(
        {name: mx.array(fill(each.shape, n, 0.1)) for n, (name, each) in enumerate(zeros.items())}
    )


def example_of(plan) -> NoisyExample:
    return plan.drawing.draw_batch(DrawnExamples(), 1)[0]


def assert_equal(found: tuple[float, Values], expected: tuple[float, Values]) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert mx.array_equal(found[1][name], gradient), name
        assert mx.any(gradient)


@pytest.mark.parametrize("network", ["lora", "loha", "lokr"])
def test_checkpointed_blocks_have_the_gradients_of_plain_ones(model: Path, tmp_path: Path, network: str):
    plain = gradients_of(model, tmp_path, network, checkpoints=False)
    assert_equal(gradients_of(model, tmp_path, network), plain)


def test_streamed_blocks_have_the_gradients_of_resident_ones(model: Path, tmp_path: Path):
    found, expected = gradients_of(model, tmp_path, streams=True), gradients_of(model, tmp_path)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for name, gradient in expected[1].items():
        # What all blocks are told adds up in another order.
        assert relative_error(found[1][name], gradient) <= 1e-5, name


def test_streamed_layers_outside_the_blocks_learn_too(tmp_path: Path):
    model = write_model(tmp_path)
    options = {"target_modules": ("text_embedding.0", "head.head", "blocks.1.ffn.0", "time_projection.1")}
    found = gradients_of(model, tmp_path / "a", streams=True, **options)
    expected = gradients_of(model, tmp_path / "a", **options)
    assert len(found[1]) == 8
    for name, gradient in expected[1].items():
        assert relative_error(found[1][name], gradient) <= 1e-5, name


def test_quantized_weights_have_the_gradients_of_what_they_stand_for(model: Path, tmp_path: Path):
    plan = plan_small(model, tmp_path)
    if plan.config.quantization is None:
        pytest.skip("not quantized")
    adapter = Adapter(plan.adapter, 0)
    put_numbers(adapter)
    dense = load_transformer(plan.model, plan.config, plan.transformer)
    for path, layer in dense.named_modules():
        if "scales" in layer:
            weight = mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)
            dense.update_modules(tree_unflatten([(path, dense_like(layer, weight))]))
    adapter.attach(dense)
    expected = resident_gradients(dense, adapter.trainable)(example_of(plan))
    found = gradients_of(model, tmp_path)
    assert found[0] == pytest.approx(expected[0].item(), rel=1e-5)
    for name, gradient in expected[1].items():
        assert relative_error(found[1][name], gradient) <= 1e-5, name


def dense_like(layer: nn.Module, weight: mx.array) -> nn.Linear:
    """A dense layer of a weight, and the bias of a quantized one."""
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in layer)
    plain.weight = weight
    if "bias" in layer:
        plain.bias = layer.bias
    return plain


class _Layer:
    scale = 0.3


@pytest.mark.parametrize("chunk_scores", [1, 2 * 70 * 30, 2**25])
def test_attention_in_chunks_has_the_gradients_of_its_formula(
    chunk_scores: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(attention, "CHUNK_SCORES", chunk_scores)
    queries, keys, values, cotangent = (
        mx.array(fill((1, 2, length, 8), salt, 2.0)) for salt, length in enumerate((100, 30, 30, 100))
    )
    site = AttentionSite("self", _Layer(), None)

    def formula(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.softmax(q @ k.swapaxes(-1, -2) * _Layer.scale, axis=-1) @ v

    inputs = [queries, keys, values]
    (expected,), slopes = mx.vjp(formula, inputs, [cotangent])
    (found,), gradients = mx.vjp(lambda *each: attend_for_training(*each, site), inputs, [cotangent])
    assert relative_error(found, expected) <= 1e-6
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert relative_error(gradient, slope) <= 1e-5


def test_fused_attention_in_chunks_mixes_what_it_mixes_whole(monkeypatch: pytest.MonkeyPatch):
    queries, keys, values = (
        mx.array(fill((1, 2, length, 8), salt)) for salt, length in enumerate((200, 30, 30))
    )
    site = AttentionSite("self", _Layer(), None)
    expected = attend_for_training(queries, keys, values, site)
    monkeypatch.setattr(attention, "on_gpu", lambda: True)
    monkeypatch.setattr(attention, "FUSED_SCORES", 1)
    assert relative_error(attend_for_training(queries, keys, values, site), expected) <= 1e-6
