"""Causal convolutions, blocks and resampling that the Wan VAEs share; see vae_stream for what they keep."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_video.models.kernels.channel_norm import normalize_and_activate, normalize_channels
from mlx_video.models.matmul import in_chunks
from mlx_video.models.vae.convolutions import (
    causal_taps,
    convolve_doubled,
    convolve_halved,
    convolve_taps,
    multiply_taps,
    split_frames,
)
from mlx_video.models.vae.stream import StreamState

# Rows of attention scores held at a time: 59 MB at 720×1280, where all of them would be 829 MB.
QUERIES_AT_A_TIME = 1024


class RMSNorm(nn.Module):
    """x / max(‖x‖, 1e-12) · √C · gamma over the channels of every position.

    Source: Wan2.1 wan/modules/vae.py, RMS_norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = mx.ones((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., C] → [..., C]."""
        return normalize_channels(x, self.gamma)

    def and_silu(self, x: mx.array) -> mx.array:
        """SiLU of what the norm gives, [..., C] → [..., C]."""
        return normalize_and_activate(x, self.gamma)


class CausalConv3d(nn.Module):
    """3×3×3 convolution that sees the frame itself and the two before it; zeros before the first.

    Source: Wan2.1 wan/modules/vae.py, CausalConv3d.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 3, 3, 3, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → [B, T, H, W, O]; the last two frames are kept."""
        return convolve_taps(_next_taps(self, x, state), self.weight, self.bias)


class TimeConv(nn.Module):
    """3×1×1 convolution along time. Its owner decides what lies before the first frame.

    Source: Wan2.1 wan/modules/vae.py, Resample.time_conv.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 3, 1, 1, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, taps: Sequence[mx.array]) -> mx.array:
        """1 to 3 arrays [B, T, H, W, C], the newest tap last → [B, T, H, W, O]."""
        return multiply_taps(taps, self.weight, self.bias)


class PointwiseConv(nn.Module):
    """Convolution over single positions: a linear layer whose weight keeps the kernel's axes of length 1."""

    def __init__(self, in_channels: int, out_channels: int, kernel_axes: int = 3) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, *(1,) * kernel_axes, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """[..., C] → [..., O]."""
        # Flattened: for arrays of more axes MLX copies the weight for every row.
        y = mx.addmm(self.bias, x.flatten(0, -2), self.weight.flatten(1).T)
        return y.reshape(*x.shape[:-1], -1)


class Conv2d(nn.Module):
    """Weight and bias of a 3×3 convolution whose padding and stride its owner chooses."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 3, 3, in_channels))
        self.bias = mx.zeros((out_channels,))


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, causal convolution, added to the input (or to its projection).

    Source: Wan2.1 wan/modules/vae.py, ResidualBlock.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # The checkpoint counts the activations and the dropout too.
        self.residual = [
            RMSNorm(in_channels),
            nn.Identity(),
            CausalConv3d(in_channels, out_channels),
            RMSNorm(out_channels),
            nn.Identity(),
            nn.Identity(),
            CausalConv3d(out_channels, out_channels),
        ]
        if in_channels != out_channels:
            self.shortcut = PointwiseConv(in_channels, out_channels)

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → [B, T, H, W, O]."""
        norm_in, _, conv_in, norm_out, _, _, conv_out = self.residual
        hidden = conv_in(norm_in.and_silu(x), state)
        hidden = conv_out(norm_out.and_silu(hidden), state)
        return hidden + (self.shortcut(x) if "shortcut" in self else x)


class FrameAttention(nn.Module):
    """Single-head attention among all positions of one frame, added to the input.

    Source: Wan2.1 wan/modules/vae.py, AttentionBlock.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels)
        self.to_qkv = PointwiseConv(channels, 3 * channels, kernel_axes=2)
        self.proj = PointwiseConv(channels, channels, kernel_axes=2)

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → [B, T, H, W, C]; keeps nothing."""
        positions = self.norm(x).reshape(-1, x.shape[2] * x.shape[3], x.shape[4])
        # One frame at a time: the scores are the square of a frame.
        frames = [self._attend(frame) for frame in positions]
        return x + self.proj(mx.stack(frames).reshape(x.shape))

    def _attend(self, positions: mx.array) -> mx.array:
        """[H·W, C] → [H·W, C]."""
        queries, keys, values = mx.split(self.to_qkv(positions), 3, axis=-1)
        queries = queries * positions.shape[-1] ** -0.5

        def rows(part: mx.array) -> mx.array:
            result = mx.softmax(part @ keys.T, axis=-1, precise=True) @ values
            mx.eval(result)  # else the scores of all parts could be alive at once
            return result

        return in_chunks(rows, queries, QUERIES_AT_A_TIME)


class Upsample(nn.Module):
    """Doubles rows and columns, and time if asked to.

    A clip's first frame stays one frame: it passes the time convolution by, and that never learns of it.

    Args:
        in_channels, out_channels: before and after.
        doubles_time: every frame but the clip's first becomes two.

    Source: Wan2.1 wan/modules/vae.py, Resample (upsample2d, upsample3d).
    """

    def __init__(self, in_channels: int, out_channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.resample = [nn.Identity(), Conv2d(in_channels, out_channels)]
        if doubles_time:
            self.time_conv = TimeConv(in_channels, 2 * in_channels)

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → [B, 2T, 2H, 2W, O], one frame less in a stream's first call."""
        if "time_conv" in self:
            x = self._double_time(x, state)
        return convolve_doubled(x, self.resample[1].weight, self.resample[1].bias)

    def _double_time(self, x: mx.array, state: StreamState) -> mx.array:
        if state.has_seen(self):
            return self._two_frames_each(x, state)
        state.keep(self, [])
        if x.shape[1] == 1:
            return x
        return mx.concatenate([x[:, :1], self._two_frames_each(x[:, 1:], state)], axis=1)

    def _two_frames_each(self, x: mx.array, state: StreamState) -> mx.array:
        batch, frames, height, width, channels = x.shape
        doubled = self.time_conv(_next_taps(self, x, state))
        # The two halves of the channels are consecutive frames.
        pairs = doubled.reshape(batch, frames, height, width, 2, channels).transpose(0, 1, 4, 2, 3, 5)
        return pairs.reshape(batch, 2 * frames, height, width, channels)


class Downsample(nn.Module):
    """Halves rows and columns, and time if asked to.

    The time convolution takes every second frame of a clip with both its neighbours. The first frame passes
    it by, but is the first neighbour. A frame whose right neighbour has not come yet waits.

    Args:
        channels: before and after.
        halves_time: 1 + 2n frames become 1 + n.

    Source: Wan2.1 wan/modules/vae.py, Resample (downsample2d, downsample3d).
    """

    def __init__(self, channels: int, *, halves_time: bool) -> None:
        super().__init__()
        self.resample = [nn.Identity(), Conv2d(channels, channels)]
        if halves_time:
            self.time_conv = TimeConv(channels, channels)

    def __call__(self, x: mx.array, state: StreamState) -> mx.array | None:
        """[B, T, H, W, C] → [B, t, H/2, W/2, C], or None when no frame is complete."""
        y = convolve_halved(x, self.resample[1].weight, self.resample[1].bias)
        return self._halve_time(y, state) if "time_conv" in self else y

    def _halve_time(self, y: mx.array, state: StreamState) -> mx.array | None:
        first = [] if state.has_seen(self) else [y[:, :1]]
        frames = state.recall(self) + split_frames(y, 1)
        count = (len(frames) - 1) // 2
        state.keep(self, frames[2 * count :])
        if count:
            taps = [mx.concatenate(frames[tap : tap + 2 * count : 2], axis=1) for tap in range(3)]
            first.append(self.time_conv(taps))
        return mx.concatenate(first, axis=1) if first else None


def middle_layers(channels: int) -> list[ResidualBlock | FrameAttention]:
    """What both halves run where the resolution is lowest."""
    return [ResidualBlock(channels, channels), FrameAttention(channels), ResidualBlock(channels, channels)]


def head_layers(channels: int, out_channels: int) -> list[nn.Module]:
    """The last layers of both halves; :func:`apply_head` runs them."""
    # The checkpoint counts the activation between norm and convolution.
    return [RMSNorm(channels), nn.Identity(), CausalConv3d(channels, out_channels)]


def apply_head(head: Sequence[nn.Module], x: mx.array, state: StreamState) -> mx.array:
    """[B, T, H, W, C] → [B, T, H, W, O]."""
    norm, _, conv = head
    return conv(norm.and_silu(x), state)


def _next_taps(layer: nn.Module, x: mx.array, state: StreamState) -> list[mx.array]:
    """The taps of a three-frame kernel for the stream's next frames; keeps the last two for the next call."""
    kept = state.recall(layer)
    taps = causal_taps(x, kept, 3)
    state.keep(layer, [*kept, *split_frames(x, 1)[-2:]][-2:])
    return taps
