"""VACE blocks streamed between the main ones give what resident ones give, from the same two slots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.loading.block_stream import BlockStream, load_streamed
from mlx_video.loading.residency import count_bytes
from mlx_video.loading.stream_plan import SLOTS, plan_stream
from mlx_video.models.block_context import Pass
from mlx_video.models.block_order import BlockName, find_prefix
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.planning.stage_peaks import bytes_read_per_step, weight_bytes_in_use
from mlx_video.planning.weight_bytes import weigh
from mlx_video.variants.vace import NETWORK
from mlx_video.weights.load import load_module
from mlx_video.weights.quantize import is_quantized_layer
from tests.models.control_networks import VACE, build_vace, sine_input
from tests.models.networks import at

CONFIG = replace(VACE, dim=64, num_heads=2, ffn_dim=96)
ORDER = NETWORK.block_order(CONFIG)
SIZE = (3, 4, 6)
VACE_CONTEXT = mx.array(sine_input((96, *SIZE), 0.07))
LATENTS = mx.array(sine_input((16, *SIZE), 0.11))


def typed(dtype: mx.Dtype) -> VACETransformer:
    transformer = build_vace(CONFIG)
    transformer.set_dtype(dtype)
    return transformer


def quantized(bits: int) -> VACETransformer:
    transformer = build_vace(CONFIG)
    nn.quantize(
        transformer, group_size=32, bits=bits, class_predicate=lambda path, _: is_quantized_layer(path)
    )
    return transformer


KINDS = {
    "float32": lambda: build_vace(CONFIG),
    "bfloat16": lambda: typed(mx.bfloat16),
    "4 bits": lambda: quantized(4),
    "8 bits": lambda: quantized(8),
}


@pytest.fixture(scope="module", params=KINDS)
def file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vace") / "model.safetensors"
    mx.save_safetensors(str(path), dict(tree_flatten(KINDS[request.param]().parameters())))
    return path


class Recording(SafetensorsFile):
    """A source that notes the blocks in the order in which they are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reads: list[str] = []

    def read_into(self, name: str, memory: memoryview) -> None:
        if (prefix := find_prefix(name)) and self.reads[-1:] != [prefix]:
            self.reads.append(prefix)
        super().read_into(name, memory)


@contextmanager
def streamed(
    path: Path, resident_blocks: int, **options
) -> Iterator[tuple[VACETransformer, BlockStream, Recording]]:
    transformer = VACETransformer(CONFIG)
    with (
        Recording(path) as source,
        load_streamed(transformer, source, ORDER, resident_blocks, **options) as stream,
    ):
        source.reads.clear()
        yield transformer, stream, source


def predict(transformer: VACETransformer, scales: tuple[float, ...], **options) -> list[np.ndarray]:
    """Velocities of two passes, each with hints of its own."""
    passes = [
        Pass(
            transformer.project_text(sign * mx.array(sine_input((7, CONFIG.text_dim), 0.23))),
            hooks=(VACEHook(transformer, sign * VACE_CONTEXT, scales),),
        )
        for sign in (1, -1)
    ]
    return [np.array(one) for one in transformer.predict(LATENTS, at(500.0), passes, **options)]


def load_resident(path: Path) -> VACETransformer:
    transformer = VACETransformer(CONFIG)
    with SafetensorsFile(path) as source:
        load_module(transformer, source)
    return transformer


def test_vace_blocks_have_their_turn_behind_the_block_that_takes_their_hint():
    assert list(map(str, ORDER)) == [
        "blocks.0",
        "vace_blocks.0",
        "blocks.1",
        "blocks.2",
        "vace_blocks.1",
        "blocks.3",
    ]


@pytest.mark.sample(8)
@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("resident_blocks", [0, 1, 3])
def test_streamed_vace_matches_resident_vace_bit_for_bit(file: Path, resident_blocks: int, scales):
    expected = predict(load_resident(file), scales)
    with streamed(file, resident_blocks) as (transformer, stream, _):
        for _ in range(2):
            np.testing.assert_array_equal(predict(transformer, scales, block_source=stream), expected)


def test_hints_that_change_between_walks_have_the_right_blocks_read(file: Path):
    resident = load_resident(file)
    with streamed(file, 0) as (transformer, stream, _):
        for scales in ((1.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)):
            expected = predict(resident, scales)
            np.testing.assert_array_equal(predict(transformer, scales, block_source=stream), expected)


def test_a_step_reads_both_sequences_in_the_order_of_their_turns(file: Path):
    with streamed(file, 0) as (transformer, stream, source):
        predict(transformer, (1.0, 1.0), block_source=stream)
        stream.rest()
        assert source.reads[: len(ORDER)] == [name.prefix for name in ORDER]


def test_blocks_without_a_hint_that_counts_are_not_read(file: Path):
    with streamed(file, 0) as (transformer, stream, source):
        predict(transformer, (1.0, 0.0), block_source=stream)
        stream.rest()
        assert "vace_blocks.0." in source.reads
        assert "vace_blocks.1." not in source.reads


def test_the_plan_counts_what_is_in_memory_and_what_is_read(file: Path):
    for resident_blocks in (0, 1, 3):
        with streamed(file, resident_blocks) as (transformer, stream, source):
            weights = weigh(source.infos.values(), ORDER)
            held = count_bytes(transformer) + stream.nbytes
            assert weight_bytes_in_use(weights, resident_blocks) == held
            assert bytes_read_per_step(weights, resident_blocks) == stream.bytes_per_step
    with SafetensorsFile(file) as source:
        weights = weigh(source.infos.values(), ORDER)
        assert weights.slot_bytes == weights.largest_block, "a main block fits into a VACE block's memory"
        assert weights.total == sum(info.nbytes for info in source.infos.values())
        streamed_names = plan_stream(source.infos, ORDER, 3).streamed
        assert len(streamed_names) == len(ORDER) - 3 > SLOTS


def test_vace_blocks_are_prepared_each_time_that_they_are_read(file: Path):
    prepared: list[str] = []

    def raise_bias(name: BlockName, block: nn.Module) -> None:
        prepared.append(str(name))
        block.ffn.fc2.bias = block.ffn.fc2.bias + 1.0

    changed = load_resident(file)
    for name in ORDER:
        raise_bias(name, getattr(changed, name.sequence)[name.index])
    expected = predict(changed, (1.0, 1.0))
    prepared.clear()
    with streamed(file, 0, prepare_block=raise_bias) as (transformer, stream, _):
        for _ in range(2):
            np.testing.assert_array_equal(predict(transformer, (1.0, 1.0), block_source=stream), expected)
    assert prepared == 2 * list(map(str, ORDER))
