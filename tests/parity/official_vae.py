"""The official autoencoders' modules and ours: the same random weights, the same clips in parts."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_video.models.vae.stream import StreamState
from tests.models.vae.tiny_vae import to_parameters

torch = pytest.importorskip("torch")


def randomise(module):
    """Weights of unit gain, norm scales around one, small biases; seeded."""
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = rng.standard_normal(parameter.shape)
            if name.endswith("gamma"):
                values = 1 + 0.2 * values
            elif name.endswith("bias"):
                values = 0.1 * values
            else:
                values = values * (parameter.shape[0] / parameter.numel()) ** 0.5
            parameter.copy_(torch.tensor(values))
    return module.eval()


def copy_weights(ours: nn.Module, theirs) -> nn.Module:
    """Load every tensor of the official module, by its own name."""
    arrays = {name: tensor.detach().numpy() for name, tensor in theirs.state_dict().items()}
    ours.load_weights(to_parameters(arrays))
    return ours


def draw(*shape: int) -> np.ndarray:
    """[C, T, H, W] numbers."""
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def to_ours(array: np.ndarray) -> mx.array:
    return mx.array(np.moveaxis(array, 0, -1))[None]


def to_array(tensor) -> np.ndarray:
    """[1, C, T, H, W] → [1, T, H, W, C]."""
    return np.moveaxis(tensor.numpy(), 1, -1)


@torch.no_grad()
def run_official(module, array: np.ndarray, sizes: list[int], *, tells_first: bool = False) -> np.ndarray:
    """The official module's output for parts of a clip, with its caches carried from one to the next.

    Args:
        module: takes the part, caches, and a counter of caches.
        array: [C, T, H, W].
        sizes: frames of each part.
        tells_first: whether the module wants to know which part is the first.
    """
    caches, pieces = [None] * 40, []
    for index, part in enumerate(torch.split(torch.tensor(array)[None], sizes, dim=2)):
        first = {"first_chunk": index == 0} if tells_first else {}
        pieces.append(module(part, caches, [0], **first))
    return to_array(torch.cat(pieces, dim=2))


def run_ours(layer, array: np.ndarray, sizes: list[int]) -> mx.array:
    """Our layer's output for parts of a clip, in one stream."""
    state, pieces = StreamState(), []
    for part in mx.split(to_ours(array), np.cumsum(sizes)[:-1].tolist(), axis=1):
        out = layer(part, state)
        pieces += [out] if isinstance(out, mx.array) else [piece for piece in out or () if piece is not None]
    return mx.concatenate(pieces, axis=1)
