"""Camera adapter: the rays of a camera path to something that is added to the video's tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.block_context import BlockHook
from mlx_video.models.elementwise import add_residual, on_gpu
from mlx_video.models.matmul import project
from mlx_video.models.token_layout import TokenLayout
from mlx_video.models.vae.convolutions import convolve_taps

UNSHUFFLE = 8
"""Pixels of a side that become channels before the first layer."""
PATCH = 2
"""Latent cells of a token's side."""


class PlaneConvolution(nn.Module):
    """3×3 convolution, padded by one cell.

    Args:
        channels: in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, 3, 3, channels))
        self.bias = mx.zeros((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """[n, H, W, C] in any floating type → [n, H, W, C], of the weights' type on a GPU, else float32."""
        dtype = self.weight.dtype if on_gpu() else mx.float32
        weight, bias = self.weight.astype(dtype), self.bias.astype(dtype)
        return convolve_taps([x.astype(dtype)[None]], weight[:, None], bias)[0]


class ResidualBlock(nn.Module):
    """Two convolutions with a ReLU between them, beside what enters.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_camera_adapter.py, ResidualBlock.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = PlaneConvolution(channels)
        self.conv2 = PlaneConvolution(channels)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, H, W, C] in any floating type → [n, H, W, C], float32."""
        return add_residual(x.astype(mx.float32), self.conv2(nn.relu(self.conv1(x))))


class CameraAdapter(nn.Module):
    """Pixels of a packed camera path to tokens.

    Args:
        config: of the transformer.

    Source: aigc-apps/VideoX-Fun videox_fun/models/wan_camera_adapter.py, SimpleAdapter.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        cells = (UNSHUFFLE * PATCH) ** 2
        self.conv = nn.Linear((config.camera_dim or 0) * cells, config.dim)
        self.residual_blocks = [ResidualBlock(config.dim)]

    def __call__(self, frames: Iterable[mx.array]) -> mx.array:
        """Make tokens of a path, one latent frame after the other.

        Args:
            frames: packed rays of each latent frame, [C, H, W] with the pixels of the video.

        Returns:
            [L, dim], float32, evaluated.
        """
        tokens = []
        for frame in frames:
            tokens.append(self._frame(frame))
            mx.eval(tokens[-1])  # before the rays of the next are made
        return mx.concatenate(tokens)

    def _frame(self, frame: mx.array) -> mx.array:
        rows, columns = (side // (UNSHUFFLE * PATCH) for side in frame.shape[1:])
        x = project(self.conv, unshuffle_patches(frame)).reshape(1, rows, columns, -1)
        for block in self.residual_blocks:
            x = block(x)
        return x.reshape(rows * columns, -1)


def unshuffle_patches(frame: mx.array) -> mx.array:
    """Pixels of each token in the order of the first layer's weights.

    That layer is a convolution of 2×2 latent cells, whose channels are the 8×8 pixels of a cell, for each
    channel of the frame.

    Args:
        frame: [C, H, W], H and W multiples of 16.

    Returns:
        [L, C·256].
    """
    channels, height, width = frame.shape
    side = UNSHUFFLE * PATCH
    cells = frame.reshape(channels, height // side, PATCH, UNSHUFFLE, width // side, PATCH, UNSHUFFLE)
    # rows, columns | channel, pixel row, pixel column | cell row, cell column
    return cells.transpose(1, 4, 0, 3, 6, 2, 5).reshape(math.prod((height // side, width // side)), -1)


class CameraHook(BlockHook):
    """Camera tokens, added to those of the video as they leave the patch embedding.

    Args:
        camera_tokens: [L, dim], of the video's tokens.
    """

    def __init__(self, camera_tokens: mx.array) -> None:
        self._camera_tokens = camera_tokens

    def extend(self, tokens: mx.array, layout: TokenLayout) -> tuple[mx.array, TokenLayout]:
        """See :meth:`BlockHook.extend`."""
        if tokens.shape != self._camera_tokens.shape:
            raise ValueError(f"camera tokens {self._camera_tokens.shape} for a video of {tokens.shape}")
        return add_residual(tokens, self._camera_tokens), layout
