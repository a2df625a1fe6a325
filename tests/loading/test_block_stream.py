"""Streamed blocks give what resident ones give, from two of them in memory, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_video.config import TransformerConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.loading.block_stream import BlockStream, load_streamed
from mlx_video.loading.residency import release_memory
from mlx_video.loading.stream_plan import SLOTS, choose_streamed, plan_stream
from mlx_video.models.block_context import Pass
from mlx_video.models.block_order import MAIN, BlockName
from mlx_video.models.transformer import WanTransformer
from mlx_video.planning.weight_bytes import weigh
from mlx_video.weights.load import load_module
from mlx_video.weights.quantize import is_quantized_layer
from tests.fixtures.reader_threads import count_busy_readers
from tests.models.networks import (
    CONCAT_LATENTS,
    CONTEXT,
    IMAGE_TO_VIDEO,
    NUM_TOKENS,
    ONE_IMAGE,
    TIMESTEP,
    TRANSFORMER,
    at,
    build_transformer,
    forward,
    layout_at,
    predict,
    run_gpu_code,
)

MAX_WAIT_SECONDS = 5
LAYERS = 5
DEEP = replace(TRANSFORMER, num_layers=LAYERS, text_len=16)
DEEP_WITH_IMAGE = replace(IMAGE_TO_VIDEO, num_layers=LAYERS, text_len=16)
ORDER = tuple(BlockName(MAIN, index) for index in range(8))
# Wide enough that weights outweigh everything else: 3.2 MB a block in float32.
WIDE = TransformerConfig(256, 768, 4, num_layers=8, text_dim=32, text_len=16, freq_dim=32)


class Recording(SafetensorsFile):
    """A source that notes which block is read, and may be made to wait before a read or to fail in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[str] = []
        self.may_read = threading.Event()
        self.may_read.set()

    def read_into(self, name: str, memory: memoryview) -> None:
        self.reads.append(name)
        assert self.may_read.wait(MAX_WAIT_SECONDS)
        super().read_into(name, memory)

    def blocks_begun(self) -> list[int]:
        """Indices in the order in which their first tensor was read."""
        return [int(name.split(".")[1]) for name in self.reads if name.endswith(".cross_attn.k.bias")]


def write(path: Path, transformer: nn.Module) -> Path:
    mx.save_safetensors(str(path), dict(tree_flatten(transformer.parameters())))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("dense") / "model.safetensors", build_transformer(DEEP))


@pytest.fixture(scope="module")
def velocity(file: Path) -> np.ndarray:
    return forward(load_resident(file))


def load_resident(path: Path, config: TransformerConfig = DEEP) -> WanTransformer:
    transformer = WanTransformer(config)
    with SafetensorsFile(path) as source:
        load_module(transformer, source)
    return transformer


def open_stream(
    source: SafetensorsFile, resident_blocks: int = 0, config: TransformerConfig = DEEP, **options
) -> tuple[WanTransformer, BlockStream]:
    transformer = WanTransformer(config)
    return transformer, load_streamed(
        transformer, source, ORDER[: config.num_layers], resident_blocks, **options
    )


def wait_until(condition) -> None:
    end = time.monotonic() + MAX_WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


# The same numbers


def quantized(transformer: WanTransformer, bits: int) -> WanTransformer:
    nn.quantize(
        transformer, group_size=32, bits=bits, class_predicate=lambda path, _: is_quantized_layer(path)
    )
    return transformer


KINDS = {
    "float32": lambda: build_transformer(DEEP),
    "bfloat16": lambda: build_transformer(DEEP, mx.bfloat16),
    "4 bits": lambda: quantized(build_transformer(DEEP), 4),
    "8 bits of bfloat16": lambda: quantized(build_transformer(DEEP, mx.bfloat16), 8),
}


@pytest.mark.parametrize(
    ("kind", "device"), [*((kind, "this device") for kind in KINDS), ("bfloat16", "gpu"), ("4 bits", "gpu")]
)
def test_streamed_blocks_match_resident_blocks_bit_for_bit(kind: str, device: str, tmp_path, monkeypatch):
    if device == "gpu":
        run_gpu_code(monkeypatch)
    path = write(tmp_path / "model.safetensors", KINDS[kind]())
    expected = [forward(load_resident(path), timestep) for timestep in (TIMESTEP, 500.0)]
    for resident_blocks in (0, 2):
        with SafetensorsFile(path) as source:
            transformer, stream = open_stream(source, resident_blocks)
            with stream:
                found = [forward(transformer, t, block_source=stream) for t in (TIMESTEP, 500.0)]
        np.testing.assert_array_equal(found, expected)


def test_a_timestep_for_each_token_and_an_image_give_the_same_too(tmp_path: Path):
    path = write(tmp_path / "model.safetensors", build_transformer(DEEP_WITH_IMAGE))
    options = {"image_tokens": ONE_IMAGE, "concat_latents": mx.array(CONCAT_LATENTS)}
    options["layout"] = layout_at((3, 2, 3), [0.0] * 6 + [TIMESTEP] * (NUM_TOKENS - 6))
    expected = forward(load_resident(path, DEEP_WITH_IMAGE), **options)
    with SafetensorsFile(path) as source:
        transformer, stream = open_stream(source, 1, DEEP_WITH_IMAGE)
        with stream:
            found = forward(transformer, block_source=stream, **options)
    np.testing.assert_array_equal(found, expected)


def predict_each(transformer: WanTransformer, stream: BlockStream, prompts=None) -> list[mx.array]:
    contexts = (mx.array(CONTEXT), -mx.array(CONTEXT))
    prompts = prompts or [transformer.project_text(context) for context in contexts]
    return predict(transformer, prompts, block_source=stream)


def test_both_prompts_get_their_velocity_from_one_reading(file: Path, velocity: np.ndarray):
    negative = load_resident(file)
    (expected,) = predict(negative, [negative.project_text(-mx.array(CONTEXT))])
    with Recording(file) as source:
        transformer, stream = open_stream(source)
        with stream:
            for _ in range(3):
                found = predict_each(transformer, stream)
                np.testing.assert_array_equal(np.array(found[0]), velocity)
                assert mx.array_equal(found[1], expected).item()
            wait_until(lambda: len(source.blocks_begun()) == 3 * LAYERS + 1)
    assert source.blocks_begun() == [*range(LAYERS), *range(LAYERS), *range(LAYERS), 0]


def test_keys_and_values_of_a_prompt_are_computed_in_the_first_step_alone(
    file: Path, velocity: np.ndarray, monkeypatch
):
    with SafetensorsFile(file) as source:
        transformer, stream = open_stream(source)
        with stream:
            text = transformer.project_text(mx.array(CONTEXT))
            predict_each(transformer, stream, [text])
            monkeypatch.setattr(
                "mlx_video.models.transformer_block.CrossAttention.keys_values",
                lambda *_: pytest.fail("again"),
            )
            np.testing.assert_array_equal(np.array(predict_each(transformer, stream, [text])[0]), velocity)


def test_blocks_stored_in_different_types_take_turns_in_the_same_slots(tmp_path: Path):
    transformer = build_transformer(DEEP)
    odd = transformer.blocks[3].ffn.fc1
    odd.weight = odd.weight.astype(mx.bfloat16)
    path = write(tmp_path / "model.safetensors", transformer)
    expected = [forward(load_resident(path)) for _ in range(2)]
    with SafetensorsFile(path) as source:
        streamed, stream = open_stream(source)
        with stream:
            found = [forward(streamed, block_source=stream) for _ in range(2)]
        weighed = weigh(source.infos.values(), ORDER[:LAYERS])
    np.testing.assert_array_equal(found, expected)
    assert weighed.slot_bytes == weighed.blocks[0] + odd.weight.nbytes


# What is read, and when


def test_only_streamed_blocks_are_read_again(file: Path):
    with Recording(file) as source:
        transformer, stream = open_stream(source, resident_blocks=2)
        with stream:
            streamed = choose_streamed(LAYERS, 2)
            loaded = Counter(source.reads)
            assert set(loaded) == {
                name for name in source.infos if not name.startswith(tuple(ORDER[i].prefix for i in streamed))
            }
            source.reads.clear()
            for _ in range(2):
                forward(transformer, block_source=stream)
            wait_until(lambda: len(source.blocks_begun()) == 2 * len(streamed) + 1)
            assert source.blocks_begun() == [*streamed, *streamed, streamed[0]]
    assert set(loaded.values()) == {1}


def test_a_step_reads_the_bytes_that_are_said_to_be_read(file: Path):
    with Recording(file) as source:
        transformer, stream = open_stream(source, resident_blocks=1)
        with stream:
            source.reads.clear()
            forward(transformer, block_source=stream)
            # As a set: the thread may already be at the next step.
            assert stream.bytes_per_step == sum(source.infos[name].nbytes for name in set(source.reads))
        assert stream.bytes_per_step == plan_stream(source.infos, ORDER[:LAYERS], 1).bytes_per_step > 0


def test_the_next_block_is_read_while_one_is_in_use_and_not_the_one_after(file: Path):
    with Recording(file) as source:
        _, stream = open_stream(source)
        with stream:
            walk = iter(stream.blocks(ORDER[:LAYERS]))
            for index in range(LAYERS):
                next(walk)
                wait_until(lambda: len(source.blocks_begun()) == index + 2)  # noqa: B023
            time.sleep(0.02)  # time enough for a read too many
            assert source.blocks_begun() == [*range(LAYERS), 0]


def test_a_block_waits_for_its_reading(file: Path, velocity: np.ndarray):
    with Recording(file) as source:
        transformer, stream = open_stream(source)
        with stream:
            source.may_read.clear()
            threading.Timer(0.05, source.may_read.set).start()
            np.testing.assert_array_equal(forward(transformer, block_source=stream), velocity)


@pytest.mark.parametrize("resident_blocks", [LAYERS - SLOTS, LAYERS, 99])
def test_blocks_that_have_room_in_memory_are_read_once(
    file: Path, velocity: np.ndarray, resident_blocks: int
):
    with Recording(file) as source:
        transformer, stream = open_stream(source, resident_blocks)
        with stream:
            for _ in range(2):
                np.testing.assert_array_equal(forward(transformer, block_source=stream), velocity)
            assert count_busy_readers() == 0
        assert Counter(source.reads) == dict.fromkeys(source.infos, 1)
        assert stream.bytes_per_step == 0


@settings(deadline=None, max_examples=25)
@given(num_layers=st.integers(1, 48), resident_blocks=st.integers(0, 50))
def test_resident_blocks_are_spread_evenly(num_layers: int, resident_blocks: int):
    streamed = choose_streamed(num_layers, resident_blocks)
    expected = max(0, num_layers - resident_blocks)
    assert len(streamed) == (expected if expected > SLOTS else 0)
    resident = [index for index in range(num_layers) if index not in streamed]
    if streamed and len(resident) > 1:
        gaps = np.diff(resident)
        assert gaps.max() - gaps.min() <= 1


def test_a_plan_counts_the_bytes_of_a_file():
    infos = {
        f"blocks.{index}.{name}": TensorInfo(f"blocks.{index}.{name}", (10,), dtype)
        for index in range(6)
        for name, dtype in (("a", "BF16"), ("b", "F32"))
    } | {"head.bias": TensorInfo("head.bias", (7,), "F32")}
    plan = plan_stream(infos, ORDER[:6], 2)
    assert len(plan.streamed) == 4
    assert plan.bytes_per_step == 4 * 60
    assert plan_stream(infos, ORDER[:6], 6).bytes_per_step == 0


# Memory


def build_wide(path: Path) -> Path:
    mx.random.seed(0)
    return write(path / "wide.safetensors", WanTransformer(WIDE))


@pytest.mark.parametrize("resident_blocks", [0, 3])
def test_no_more_than_the_resident_blocks_and_two_others_are_in_memory(tmp_path: Path, resident_blocks: int):
    path = build_wide(tmp_path)
    release_memory()
    before = mx.get_active_memory()
    with SafetensorsFile(path) as source:
        plan = plan_stream(source.infos, ORDER, resident_blocks)
        block = plan.bytes_per_step // len(plan.streamed)
        others = sum(info.nbytes for info in source.infos.values()) - WIDE.num_layers * block
        held = others + (resident_blocks + SLOTS) * block
        mx.reset_peak_memory()
        transformer, stream = open_stream(source, resident_blocks, WIDE)
        with stream:
            for _ in range(2):
                text = transformer.project_text(mx.zeros((4, 32)))
                mx.eval(transformer.predict(mx.zeros((16, 1, 4, 4)), at(), [Pass(text)], block_source=stream))
            peak = mx.get_peak_memory() - before
            del text
    # Half a megabyte: activations, and keys and values of 16 tokens in each of 8 blocks.
    assert held <= peak <= held + 500_000 < held + block
    transformer.clear()
    release_memory()
    assert mx.get_active_memory() - before < 10_000


def test_closing_in_the_middle_frees_every_block_and_ends_the_reading(tmp_path: Path):
    path = build_wide(tmp_path)
    release_memory()
    before = mx.get_active_memory()
    with SafetensorsFile(path) as source:
        transformer, stream = open_stream(source, 3, WIDE)
        transformer.clear()
        walk = stream.blocks(ORDER)
        kept = [next(walk) for _ in range(4)]
        assert count_busy_readers() == 1
        stream.close()
        assert count_busy_readers() == 0
        stream.close()
    release_memory()
    assert mx.get_active_memory() - before < 10_000
    assert len(kept) == 4


def test_a_block_cannot_be_used_after_its_turn(file: Path):
    with SafetensorsFile(file) as source:
        transformer, stream = open_stream(source)
        with stream:
            kept = list(stream.blocks(ORDER[:LAYERS]))
    assert len(kept) == LAYERS
    assert not any(hasattr(block, "cross_attn") for block in kept)
    with pytest.raises(ValueError, match="0 of 5 blocks are in memory: give a block source"):
        forward(transformer)


# Changes to a block that has been read


def test_a_block_is_prepared_each_time_that_it_is_read_and_only_then(file: Path):
    prepared = []

    def raise_bias(name: BlockName, block) -> None:
        prepared.append(name.index)
        block.ffn.fc2.bias = block.ffn.fc2.bias + 1.0  # an array of its own
        block.self_attn.o = nn.Sequential(block.self_attn.o)  # a layer of its own
        block.self_attn.o = block.self_attn.o.layers[0]

    changed = load_resident(file)
    for index, block in enumerate(changed.blocks):
        raise_bias(ORDER[index], block)
    expected = forward(changed)
    prepared.clear()
    with SafetensorsFile(file) as source:
        transformer, stream = open_stream(source, 1, prepare_block=raise_bias)
        with stream:
            resident = [index for index in range(LAYERS) if index not in choose_streamed(LAYERS, 1)]
            assert prepared == resident
            for _ in range(3):
                np.testing.assert_array_equal(forward(transformer, block_source=stream), expected)
    assert prepared == [*resident, *(3 * choose_streamed(LAYERS, 1))]


# Failures


def test_a_file_that_ends_early_names_the_block_and_the_file(file: Path, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file.read_bytes())
    with SafetensorsFile(path) as source:
        transformer, stream = open_stream(source)
        with stream:
            forward(transformer, block_source=stream)
            os.truncate(path, path.stat().st_size // 2)
            for _ in range(2):
                with pytest.raises(
                    CheckpointError, match=r"blocks\.\d of the transformer: .*model.safetensors: ends at byte"
                ):
                    forward(transformer, block_source=stream)
                assert count_busy_readers() == 0


def test_a_disk_that_fails_once_can_be_read_again(file: Path, velocity: np.ndarray, monkeypatch):
    read, failing = os.preadv, threading.Event()

    def preadv(*arguments):
        if failing.is_set():
            raise OSError(5, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", preadv)
    with SafetensorsFile(file) as source:
        transformer, stream = open_stream(source)
        with stream:
            failing.set()
            with pytest.raises(CheckpointError, match=r"blocks\.0 of the transformer: .*Input/output error"):
                forward(transformer, block_source=stream)
            failing.clear()
            np.testing.assert_array_equal(forward(transformer, block_source=stream), velocity)


@pytest.mark.parametrize("turns", [1, 3, LAYERS - 1])
def test_a_walk_that_is_broken_off_does_no_harm_to_the_next(file: Path, velocity: np.ndarray, turns: int):
    with SafetensorsFile(file) as source:
        transformer, stream = open_stream(source, 1)
        with stream:
            walk = stream.blocks(ORDER[:LAYERS])
            for _ in range(turns):
                next(walk)
            walk.close()
            np.testing.assert_array_equal(forward(transformer, block_source=stream), velocity)


def test_an_interrupt_while_a_block_is_waited_for_ends_the_reading(file: Path):
    with Recording(file) as source:
        transformer, stream = open_stream(source)
        source.may_read.clear()
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        threading.Timer(0.3, source.may_read.set).start()
        with pytest.raises(KeyboardInterrupt), stream:
            forward(transformer, block_source=stream)
    assert count_busy_readers() == 0


def test_another_models_file_is_refused_before_a_block_is_read(file: Path):
    with Recording(file) as source, pytest.raises(CheckpointError, match="tensors do not fit the model"):
        open_stream(source, config=replace(DEEP, num_layers=LAYERS + 1))
    assert source.reads == []
