"""Gradients of several processes, each of which has computed those of its own examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import mlx.core as mx

from mlx_video.distributed.collectives import Collectives

MESSAGE_BYTES = 32 << 20
"""Of gradients that travel together: single ones are too small for a link, all need twice the memory."""


def sum_gradients(gradients: Mapping[str, mx.array], collectives: Collectives) -> dict[str, mx.array]:
    """The sum of the gradients of all processes.

    Args:
        gradients: of this process; names and shapes are the same everywhere.
        collectives: exchanges among the processes.

    Returns:
        Shapes and types of `gradients`, evaluated; added up in float32. On some links the bits depend on the
        rank.
    """
    summed: dict[str, mx.array] = {}
    for names in _batch(gradients):
        own = mx.concatenate([gradients[name].reshape(-1).astype(mx.float32) for name in names])
        mx.eval(own)
        total = collectives.sum(own)
        start = 0
        for name in names:
            gradient = gradients[name]
            part = total[start : start + gradient.size].reshape(gradient.shape)
            summed[name] = part.astype(gradient.dtype)
            start += gradient.size
        mx.eval([summed[name] for name in names])
    return summed


def _batch(gradients: Mapping[str, mx.array]) -> Iterator[list[str]]:
    """Names of those that travel together, in an order that is the same everywhere."""
    names: list[str] = []
    nbytes = 0
    for name in sorted(gradients):
        if names and nbytes + gradients[name].nbytes > MESSAGE_BYTES:
            yield names
            names, nbytes = [], 0
        names.append(name)
        nbytes += gradients[name].nbytes
    if names:
        yield names
