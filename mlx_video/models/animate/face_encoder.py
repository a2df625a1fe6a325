"""Face encoder: the motion of a face, frame by frame, to tokens that the transformer reads."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import FaceConfig
from mlx_video.models.matmul import project

EPS = 1e-6
KERNEL = 3


class CausalConvolution(nn.Module):
    """Convolution over time that sees no later frame; before the first one lie copies of it.

    Source: Wan2.2 wan/modules/animate/face_blocks.py, CausalConv1d.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out, KERNEL, into))
        self.bias = mx.zeros((out,))

    def __call__(self, x: mx.array, stride: int = 1) -> mx.array:
        """[n, F, in] → [n, ⌈F/stride⌉, out], float32."""
        padded = mx.concatenate([mx.repeat(x[:, :1], KERNEL - 1, axis=1), x], axis=1)
        convolved = mx.conv1d(padded, self.weight.astype(mx.float32), stride)
        return convolved + self.bias.astype(mx.float32)


class FaceEncoder(nn.Module):
    """Three convolutions over time, the last two halving it, in several groups of channels; float32.

    Source: Wan2.2 wan/modules/animate/face_blocks.py, FaceEncoder.
    """

    def __init__(self, config: FaceConfig, dim: int) -> None:
        super().__init__()
        hidden_dim = config.hidden_dim
        self.num_heads = config.num_heads
        self.conv1_local = CausalConvolution(config.motion_dim, config.num_heads * hidden_dim)
        self.conv2 = CausalConvolution(hidden_dim, hidden_dim)
        self.conv3 = CausalConvolution(hidden_dim, hidden_dim)
        self.out_proj = nn.Linear(hidden_dim, dim)
        self.padding_tokens = mx.zeros((1, 1, 1, dim))

    def __call__(self, motions: mx.array) -> mx.array:
        """Make tokens of each latent frame.

        Args:
            motions: [F, motion_dim], float32, of each frame of the video.

        Returns:
            [T, num_heads + 1, dim], float32; T is 1 + ⌊(F - 1) / 4⌋.
        """
        x = self.conv1_local(motions[None])
        # Each group of channels is a sequence of its own from here on.
        x = _activate(x.reshape(len(motions), self.num_heads, -1).swapaxes(0, 1))
        x = _activate(self.conv2(x, 2))
        x = _activate(self.conv3(x, 2))
        groups, frames, _ = x.shape
        tokens = project(self.out_proj, x.reshape(groups * frames, -1), mx.float32)
        tokens = tokens.reshape(groups, frames, -1).swapaxes(0, 1)
        padding = mx.broadcast_to(self.padding_tokens[0].astype(mx.float32), (frames, 1, tokens.shape[-1]))
        return mx.concatenate([tokens, padding], axis=1)


def _activate(x: mx.array) -> mx.array:
    return nn.silu(mx.fast.layer_norm(x, None, None, EPS))
