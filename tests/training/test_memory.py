"""The memory that a training is planned with: that of published models on Macs, and what tiny ones take."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_video.config import TransformerConfig
from mlx_video.errors import MemoryBudgetError, RequestError
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.planning.memory_plan import MemoryPlan
from mlx_video.request.train import NetworkKind, TaskName, TrainRequest
from mlx_video.runs.memory import find_host
from mlx_video.training.adapter import Adapter, AdapterPlan, find_layers
from mlx_video.training.distillation import WalkDrawing
from mlx_video.training.example import Example
from mlx_video.training.factors import KINDS
from mlx_video.training.gradients import resident_gradients
from mlx_video.training.memory import (
    MemoryWay,
    TrainingSize,
    measure_training,
    plan_memory,
    refuse_misfit,
    training_peak,
)
from mlx_video.training.plan import plan_training
from mlx_video.weights.network import PLAIN
from tests.fixtures.published_models import cpu, mac, published_model
from tests.training.examples import Kind

TOKENS_480P = 30 * 52
FRAMES_17 = 5 * TOKENS_480P


def plan_for(
    name: str, bits: int | None, tokens: int, memory_gb: int, **options
) -> tuple[MemoryPlan, TrainingSize]:
    """The plan of a published model's training on a Mac."""
    sizes = published_model(name, bits)
    nowhere = Path("nowhere")
    folder = ModelFolder(nowhere, {}, dict.fromkeys(sizes.transformers, nowhere), {}, None)
    plan = plan_training(TrainRequest(**options), folder, sizes.config)
    size = measure_training(plan, sizes.transformers[plan.transformer], tokens)
    _, memory = plan_memory(plan, size, mac(memory_gb))
    refuse_misfit(memory, size)
    return memory, size


@pytest.mark.parametrize(
    ("name", "bits", "tokens", "memory_gb", "streams"),
    [
        ("wan2.1-t2v-1.3b", None, FRAMES_17, 16, False),
        ("wan2.1-t2v-14b", 4, TOKENS_480P, 32, False),
        ("wan2.1-t2v-14b", 4, FRAMES_17, 32, True),
        ("wan2.2-t2v-a14b", 4, TOKENS_480P, 32, False),
        ("wan2.2-t2v-a14b", 4, FRAMES_17, 32, True),
    ],
)
def test_published_models_train_on_macs(
    name: str, bits: int | None, tokens: int, memory_gb: int, streams: bool
):
    options = {"expert": "low_noise"} if "a14b" in name else {}
    memory, _ = plan_for(name, bits, tokens, memory_gb, rank=32, **options)
    assert not memory.misfits
    assert (memory.choices.resident_blocks == 0) == streams
    assert (memory.stages[0].read_bytes > 0) == streams


def test_what_does_not_fit_says_what_would_take_less():
    with pytest.raises(MemoryBudgetError, match="--network lora, or fewer parameters by --target-modules"):
        plan_for("wan2.1-t2v-14b", None, TOKENS_480P, 64, network="full")
    with pytest.raises(MemoryBudgetError, match="--gradient-checkpointing on"):
        plan_for("wan2.1-t2v-14b", 4, FRAMES_17, 32, gradient_checkpointing="off")


def test_blocks_that_change_or_take_turns_with_others_are_not_streamed():
    with pytest.raises(RequestError, match="blocks beside the main ones stay in memory"):
        plan_for("wan2.1-vace-1.3b", None, TOKENS_480P, 64, stream="on")
    with pytest.raises(RequestError, match="own weights change"):
        plan_for("wan2.1-t2v-1.3b", None, TOKENS_480P, 64, stream="on", network="full")


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"rank": 64}, {"rank": 8}),
        ({"optimizer": "adamw"}, {"optimizer": "lion"}),
        ({"optimizer": "lion"}, {"optimizer": "adafactor"}),
        ({"ema": 0.9}, {}),
        ({"gradient_accumulation": 2}, {}),
        ({"task": "direct-distill"}, {}),
        ({"task": "direct-distill", "distill_steps": 8}, {"task": "direct-distill"}),
        ({"gradient_checkpointing": "off"}, {"gradient_checkpointing": "on"}),
        ({"stream": "off"}, {"stream": "on"}),
        ({"adapter_dtype": "float32"}, {"adapter_dtype": "bfloat16"}),
        ({}, {"target_modules": ("self_attn.q",)}),
        ({"network": "loha"}, {"rank": 64}),
        ({"network": "full", "stream": "off"}, {"network": "full", "target_modules": ("blocks.1",)}),
    ],
    ids=str,
)
def test_what_takes_more_memory_is_planned_with_more(more: dict, less: dict):
    peaks = [
        plan_for("wan2.1-t2v-1.3b", None, TOKENS_480P, 96, **options)[0].stages[0].predicted_bytes
        for options in (more, less)
    ]
    assert peaks[0] > peaks[1]


WIDE = TransformerConfig(dim=256, ffn_dim=1536, num_heads=2, num_layers=2, text_dim=32)


@pytest.mark.sample(2)
@pytest.mark.slow
@pytest.mark.parametrize("sides", [(32, 32), (64, 48)], ids=str)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_the_predicted_peak_is_what_a_step_takes(sides: tuple[int, int], dtype: mx.Dtype):
    found, predicted = compare_peaks(WIDE, sides, dtype)
    assert found == pytest.approx(predicted, rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [True, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_walk_takes_no_more_than_one_step_of_it(checkpoints: bool):
    deep = replace(WIDE, num_layers=4)
    found, predicted = compare_peaks(deep, (32, 32), mx.float32, "direct-distill", checkpoints=checkpoints)
    assert found == pytest.approx(predicted, rel=0.25)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("network", "checkpoints"), [("loha", True), ("lokr", False), ("lokr", True), ("loha", False)]
)
def test_changes_of_weights_take_what_is_planned(network: NetworkKind, checkpoints: bool):
    found, predicted = compare_peaks(WIDE, (32, 32), mx.float32, network=network, checkpoints=checkpoints)
    assert found == pytest.approx(predicted, rel=0.25)


def compare_peaks(
    config: TransformerConfig,
    sides: tuple[int, int],
    dtype: mx.Dtype,
    task: TaskName = "sft",
    *,
    network: NetworkKind = "lora",
    checkpoints: bool = True,
) -> tuple[int, int]:
    """Bytes that the gradients of one example take, and those predicted."""
    kind = Kind("wan2.1-t2v-1.3b", config)
    transformer = kind.build()
    transformer.set_dtype(dtype)
    layers = find_layers(PLAIN, config, ())
    adapter = Adapter(AdapterPlan(network, 8, 8.0, layers), 0)
    adapter.attach(transformer)
    mx.eval(transformer.parameters())
    request = TrainRequest(task=task, distill_steps=2 if task == "direct-distill" else 4)
    shape = (16, 2, *sides)
    noise, target = mx.random.normal(shape), mx.random.normal(shape)
    one = replace(kind.example(), noisy=noise, target=target)
    if task == "direct-distill":
        one = WalkDrawing(2, 3.0).begin(Example("clip", target, kind.conditioning, 1))
        noise = one.noise
    mx.eval(noise, target)
    gc.collect()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(resident_gradients(transformer, adapter.trainable, checkpoints=checkpoints)(one))
    found = mx.get_peak_memory() - before
    trained = sum(value.size for value in adapter.trainable.values().values())
    weights = replace(weigh_of(transformer), number_bytes=dtype.size)
    size = TrainingSize(config, weights, 2 * sides[0] * sides[1] // 4, 0, trained, 2 * trained, 4, request)
    if KINDS[network].is_whole:
        size = replace(size, changed=sum(rows * columns for rows, columns in layers.values()))
    held = weights.total + 3 * 4 * trained
    return found, training_peak(size, cpu(64), MemoryWay(checkpoints=checkpoints)).usual - held


def weigh_of(transformer):
    """Bytes of a transformer in memory."""
    from mlx.utils import tree_flatten

    from mlx_video.planning.weight_bytes import WeightBytes

    total = sum(array.nbytes for _, array in tree_flatten(transformer.parameters()))
    count = transformer.config.num_layers
    return WeightBytes((total // count,) * count, 0, 4)


def test_a_host_is_found_for_a_limit():
    assert find_host(3.0).budget.nbytes == 3_000_000_000
