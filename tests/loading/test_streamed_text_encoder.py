"""The streamed text encoder gives what the resident one gives, from a block of weights at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from mlx_video.config import TextEncoderConfig
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.loading.residency import release_memory
from mlx_video.loading.streamed_text_encoder import encode_resident, encode_streamed
from mlx_video.models.encoders.text_encoder import UMT5Encoder
from mlx_video.weights.load import load_module
from tests.fixtures.generators import finish, finish_and_collect
from tests.models.networks import TEXT_ENCODER, build_text_encoder, run_gpu_code

TEXTS = ([160, 14, 297, 232, 131, 61, 1], [14, 14, 8, 1], [1])
# Wide enough that weights outweigh everything else: 4.2 MB a block in float32, of which the second half has
# 60 %; the table of tokens is larger than two blocks.
WIDE = TextEncoderConfig(vocab_size=3000, dim=256, dim_attn=256, dim_ffn=1024, num_heads=4, num_layers=4)


class Recording:
    """A source that notes what is read of it."""

    def __init__(self, source: TensorSource) -> None:
        self.source, self.label, self.infos = source, source.label, source.infos
        self.reads: list[tuple[str, slice | None]] = []

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        self.reads.append((name, rows))
        return self.source.read(name, rows)


def write(path: Path, encoder: nn.Module) -> Path:
    mx.save_safetensors(str(path), dict(tree_flatten(encoder.parameters())))
    return path


def encode_loaded(path: Path, config: TextEncoderConfig) -> list[mx.array]:
    """Features from an encoder in memory, called as a whole; block by block it gives the same."""
    encoder = UMT5Encoder(config)
    with open_tensors(path) as source:
        load_module(encoder, source)
    features = [encoder(mx.array(text)) for text in TEXTS]
    assert_same(finish(encode_resident(encoder, TEXTS)), features)
    return features


def encode(path: Path, config: TextEncoderConfig = TEXT_ENCODER) -> list[mx.array]:
    with open_tensors(path) as source:
        return finish(encode_streamed(source, config, TEXTS))


def assert_same(found: list[mx.array], expected: list[mx.array]) -> None:
    assert [x.dtype for x in found] == [x.dtype for x in expected]
    assert [x.shape for x in found] == [x.shape for x in expected]
    assert all(mx.array_equal(a, b).item() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_streamed_features_are_the_resident_ones_bit_for_bit(tmp_path: Path, dtype: mx.Dtype):
    path = write(tmp_path / "encoder.safetensors", build_text_encoder(dtype=dtype))
    assert_same(encode(path), encode_loaded(path, TEXT_ENCODER))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_they_are_the_same_in_the_types_of_a_gpu(tmp_path: Path, monkeypatch, dtype: mx.Dtype):
    run_gpu_code(monkeypatch)
    path = write(tmp_path / "encoder.safetensors", build_text_encoder(dtype=dtype))
    assert_same(encode(path), encode_loaded(path, TEXT_ENCODER))


def test_layers_and_a_table_stored_quantized_give_the_same_too(tmp_path: Path):
    encoder = build_text_encoder()
    nn.quantize(
        encoder,
        group_size=32,
        bits=8,
        class_predicate=lambda path, layer: hasattr(layer, "to_quantized") and "pos_" not in path,
    )
    path = write(tmp_path / "encoder.safetensors", encoder)
    with open_tensors(path) as source:
        assert "token_embedding.scales" in source.infos
    assert_same(encode(path), encode_loaded(path, TEXT_ENCODER))


def test_every_weight_is_read_once_for_all_texts_and_the_table_row_by_row(tmp_path: Path):
    path = write(tmp_path / "encoder.safetensors", build_text_encoder())
    with open_tensors(path) as opened:
        source = Recording(opened)
        finish(encode_streamed(source, TEXT_ENCODER, TEXTS))
    rows = [row for name, row in source.reads if name == "token_embedding.weight"]
    assert rows == [slice(n, n + 1) for n in sorted({number for text in TEXTS for number in text})]
    whole = [name for name, row in source.reads if row is None]
    assert sorted(whole) == sorted(name for name in source.infos if name != "token_embedding.weight")


def test_progress_counts_blocks(tmp_path: Path):
    path = write(tmp_path / "encoder.safetensors", build_text_encoder())
    with open_tensors(path) as source:
        _, done = finish_and_collect(encode_streamed(source, TEXT_ENCODER, TEXTS))
    assert done == [1, 2]


def block_bytes(infos: Mapping[str, object]) -> int:
    return sum(info.nbytes for name, info in infos.items() if name.startswith("blocks.0."))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_no_more_than_a_block_and_one_widened_weight_are_in_memory(tmp_path: Path, dtype: mx.Dtype):
    mx.random.seed(0)
    encoder = UMT5Encoder(WIDE)
    encoder.set_dtype(dtype)
    path = write(tmp_path / "encoder.safetensors", encoder)
    del encoder
    release_memory()
    with open_tensors(path) as source:
        block = block_bytes(source.infos)
        widened = 0 if dtype == mx.float32 else 4 * math.prod(source.infos["blocks.0.ffn.fc1.weight"].shape)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        features = finish(encode_streamed(source, WIDE, TEXTS))
    # A tenth for activations, tables of positions and the rows of these texts.
    assert mx.get_peak_memory() - before <= 1.1 * (block + widened)
    release_memory()
    assert mx.get_active_memory() - before <= sum(x.nbytes for x in features) + 4096


def test_a_caller_that_stops_early_frees_everything(tmp_path: Path):
    mx.random.seed(0)
    path = write(tmp_path / "encoder.safetensors", UMT5Encoder(WIDE))
    release_memory()
    before = mx.get_active_memory()
    with open_tensors(path) as source:
        work = encode_streamed(source, WIDE, TEXTS)
        assert next(work) == 1
        work.close()
    release_memory()
    assert mx.get_active_memory() - before < 100_000


def test_another_encoders_file_is_refused_before_anything_is_read(tmp_path: Path):
    path = write(tmp_path / "encoder.safetensors", build_text_encoder())
    with open_tensors(path) as opened:
        source = Recording(opened)
        with pytest.raises(CheckpointError, match="tensors do not fit the model: 10 missing"):
            finish(encode_streamed(source, replace(TEXT_ENCODER, num_layers=3), TEXTS))
    assert source.reads == []


def test_a_file_that_ends_early_is_an_error_of_the_caller(tmp_path: Path):
    path = write(tmp_path / "encoder.safetensors", build_text_encoder())
    with open_tensors(path) as source:
        work = encode_streamed(source, TEXT_ENCODER, TEXTS)
        path.write_bytes(path.read_bytes()[:20_000])
        with pytest.raises(CheckpointError, match="bytes too early"):
            finish(work)
