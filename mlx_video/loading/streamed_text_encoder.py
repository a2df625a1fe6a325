"""The text encoder at work, block by block: read from its file meanwhile, or in memory as a whole."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlx_video.config import TextEncoderConfig
from mlx_video.files.read_ahead import read_ahead
from mlx_video.formats.tensor_source import TensorSource
from mlx_video.models.encoders.text_encoder import TextEncoderBlock, UMT5Encoder
from mlx_video.weights.load import fit_module
from mlx_video.weights.rules import Shape

# What each half of a block needs. Read apart, since a whole block in use and one on its way are 770 MB.
ATTENTION = ("norm1", "attn", "pos_embedding")
FEED_FORWARD = ("norm2", "ffn")
_EMBEDDING = "token_embedding."


def encode_streamed(
    source: TensorSource, config: TextEncoderConfig, texts: Sequence[Sequence[int]]
) -> Generator[int, None, list[mx.array]]:
    """Encode texts while the weights pass by: each half of a block is read once, used for all, and dropped.

    The next half is read while one computes, so no more than a block is in memory. Of the table of tokens
    only the rows of these texts are read. The features are, bit for bit, those of a `UMT5Encoder` in memory.

    Args:
        source: the encoder's tensors, of any dtype, dense or quantized.
        config: its sizes.
        texts: the token numbers of each text, without padding.

    Yields:
        How many blocks are done, after each.

    Returns:
        Features [n, dim] of each text, evaluated, in the type of `UMT5Encoder.embed`.

    Raises:
        CheckpointError: the tensors are not those of this encoder; nothing was read.
    """
    encoder = UMT5Encoder(config)
    shapes = fit_module(encoder, source)
    features = _embed(encoder, source, texts)
    buckets = {length: encoder.buckets(length) for length in map(len, texts)}
    halves = [(block, half) for block in range(config.num_layers) for half in (ATTENTION, FEED_FORWARD)]

    def read(half: tuple[int, tuple[str, ...]]) -> dict[str, mx.array]:
        index, names = half
        return _read_parts(source, shapes, f"blocks.{index}.", names)

    with closing(read_ahead(halves, read)) as weights:
        for index, half in halves:
            block = encoder.blocks[index]
            block.update(tree_unflatten(list(next(weights).items())))
            features = [_apply(block, half, x, buckets[x.shape[0]]) for x in features]
            for name in half:
                block[name].clear()
            if half is FEED_FORWARD:
                yield index + 1
    encoder.update(tree_unflatten(list(_read_parts(source, shapes, "", ("norm",)).items())))
    features = [encoder.norm(x) for x in features]
    mx.eval(features)
    return features


def encode_resident(
    encoder: UMT5Encoder, texts: Sequence[Sequence[int]]
) -> Generator[int, None, list[mx.array]]:
    """Encode texts with an encoder in memory, in the order and to the bits of :func:`encode_streamed`.

    Args:
        encoder: loaded.
        texts: the token numbers of each text, without padding.

    Yields:
        How many blocks are done, after each.

    Returns:
        Features [n, dim] of each text, evaluated.
    """
    features = [encoder.embed(mx.array(list(text))) for text in texts]
    mx.eval(features)
    buckets = {length: encoder.buckets(length) for length in map(len, texts)}
    for index, block in enumerate(encoder.blocks):
        for half in (ATTENTION, FEED_FORWARD):
            features = [_apply(block, half, x, buckets[x.shape[0]]) for x in features]
        yield index + 1
    features = [encoder.norm(x) for x in features]
    mx.eval(features)
    return features


def _apply(block: TextEncoderBlock, half: tuple[str, ...], x: mx.array, buckets: mx.array) -> mx.array:
    x = block.add_attention(x, buckets) if half is ATTENTION else block.add_feed_forward(x)
    mx.eval(x)
    return x


def _embed(encoder: UMT5Encoder, source: TensorSource, texts: Sequence[Sequence[int]]) -> list[mx.array]:
    """Embed all texts with a table that holds no other rows than theirs."""
    used = sorted({number for text in texts for number in text})
    table: nn.Module = encoder.token_embedding
    rows = {
        name.removeprefix(_EMBEDDING): mx.concatenate(
            [source.read(name, slice(number, number + 1)) for number in used]
        )
        for name in source.infos
        if name.startswith(_EMBEDDING)
    }
    table.update(rows)
    place = {number: row for row, number in enumerate(used)}
    features = [encoder.embed(mx.array([place[number] for number in text])) for text in texts]
    mx.eval(features)
    table.clear()
    return features


def _read_parts(
    source: TensorSource, shapes: Mapping[str, Shape], path: str, names: Sequence[str]
) -> dict[str, mx.array]:
    """Tensors of some parts of a module, by their names inside it."""
    wanted = tuple(f"{path}{name}." for name in names)
    return {
        name.removeprefix(path): source.read(name).reshape(shape)
        for name, shape in shapes.items()
        if name.startswith(wanted)
    }
