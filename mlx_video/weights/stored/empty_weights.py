"""Weights that a file holds as nothing but zeros: told from a few rows, or while all of them pass by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource
from mlx_video.weights.names.text_encoder_names import ANCHOR as TOKEN_TABLE
from mlx_video.weights.rules import Shape

_SAMPLED_ROWS = 64
# Matrices that the official code begins with zeros, and that do no harm if they stay so.
# Source: Wan2.1 wan/modules/vae.py, AttentionBlock.
_MAY_BE_ZERO = (".middle.1.proj.weight",)


def sample_rows(shape: Shape) -> Iterator[slice | None]:
    """Rows spread over a tensor, one at a time; None stands for a scalar."""
    if not shape:
        yield None
        return
    for index in range(0, shape[0], max(1, shape[0] // _SAMPLED_ROWS)):
        yield slice(index, index + 1)


def has_numbers(array: mx.array) -> bool:
    """Whether anything but zero is among the elements; one that is no number counts."""
    return bool(mx.any(array).item())


def looks_empty(source: TensorSource, name: str) -> bool:
    """Whether rows spread over a tensor hold nothing but zeros; reads little."""
    return not any(has_numbers(source.read(name, rows)) for rows in sample_rows(source.infos[name].shape))


def must_hold_numbers(info: TensorInfo) -> bool:
    """Whether every published file has numbers there: in matrices and kernels; other tensors may be zero.

    Args:
        info: under the official name, or that of a converted file.
    """
    is_matrix = len(info.shape) > 1 and math.prod(info.shape) > 0 and info.name.endswith(".weight")
    return is_matrix and not info.name.endswith(_MAY_BE_ZERO)


def refuse_empty(source: TensorSource, info: TensorInfo) -> CheckpointError:
    """The error for a weight that is zero throughout."""
    return CheckpointError(
        f"{source.file_of(info.name).name}: {info.title} {list(info.shape)} holds nothing but zeros, where "
        "every published file has numbers: whatever saved this file left them out. Fetch the file from the "
        "model's own repository, or use another copy."
    )


def check_token_table(source: TensorSource) -> None:
    """Refuse a text encoder whose table of tokens is empty, so that every prompt would be the same to it.

    Args:
        source: the encoder, under the official names; quantized or dense.

    Raises:
        CheckpointError: rows spread over the table hold nothing but zeros.
    """
    parts = [
        name for name in (TOKEN_TABLE, TOKEN_TABLE.replace(".weight", ".biases")) if name in source.infos
    ]
    if parts and all(looks_empty(source, name) for name in parts):
        raise refuse_empty(source, source.infos[TOKEN_TABLE])
