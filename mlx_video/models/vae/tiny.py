"""A tiny decoder in place of a VAE's: latents to frames by plain 2-D convolutions that recall one frame.

It is trained to give what the VAE gives, at a small part of its work, and loses some fine detail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TinyVAEConfig
from mlx_video.models.vae.convolutions import convolve_doubled, convolve_frames
from mlx_video.models.vae.stream import FRAME_BY_FRAME, Layer, StreamState, run_stages
from mlx_video.models.vae.wan21 import shuffle_pixels

# Latents beyond this many deviations are drawn in, softly.
CLAMP = 3.0
BLOCKS = 3
COLOURS = 3
DOUBLES_TIME = (False, True, True)


@dataclass(frozen=True, slots=True)
class TinyForm:
    """Which of its stages enlarge what; the weights are the same.

    Attributes:
        time: whether a stage makes two frames of each.
        space: whether a stage doubles rows and columns.
    """

    time: tuple[bool, bool, bool] = DOUBLES_TIME
    space: tuple[bool, bool, bool] = (True, True, True)

    @property
    def frames_to_trim(self) -> int:
        """Frames at the begin of a clip that stand for nothing: all but the last of its first latent's."""
        return self.frames_per_latent - 1

    @property
    def frames_per_latent(self) -> int:
        """Frames that a latent frame becomes."""
        return prod(1 + doubles for doubles in self.time)


WHOLE = TinyForm()
PREVIEW = TinyForm(time=(False, False, False), space=(True, True, False))
"""One frame of half the size for each latent frame."""


class FrameConv(nn.Module):
    """3×3 convolution of every frame by itself, padded by one pixel."""

    def __init__(self, in_channels: int, out_channels: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((out_channels, 3, 3, in_channels))
        if has_bias:
            self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """[B, T, H, W, C] → [B, T, H, W, O]."""
        y = convolve_frames(x.flatten(0, 1), self.weight, padding=1).reshape(*x.shape[:-1], -1)
        return y + self.bias if "bias" in self else y


class MemoryBlock(nn.Module):
    """Three convolutions around which the input passes, of a frame together with the one before it.

    Source: madebyollin/taehv taehv.py, MemBlock.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = [FrameConv(into, channels) for into in (2 * channels, channels, channels)]

    def __call__(self, x: mx.array, state: StreamState) -> mx.array:
        """[B, T, H, W, C] → the same shape."""
        before = state.recall(self) or [mx.zeros_like(x[:, :1])]
        y = mx.concatenate([x, mx.concatenate([*before, x[:, :-1]], axis=1)], axis=-1)
        state.keep(self, [x[:, -1:]])
        for conv in self.convs[:-1]:
            y = relu(conv(y))
            mx.eval(y)  # else the scratch of all three would be taken at once
        return relu(self.convs[-1](y) + x)


class TinyStage(nn.Module):
    """Memory blocks, then more frames, more pixels and other channels.

    Source: madebyollin/taehv taehv.py, TAEHV.decoder and TGrow.
    """

    def __init__(self, in_channels: int, out_channels: int, *, doubles_time: bool) -> None:
        super().__init__()
        self.blocks = [MemoryBlock(in_channels) for _ in range(BLOCKS)]
        self.grow = nn.Linear(in_channels, (1 + doubles_time) * in_channels, bias=False)
        self.widen = FrameConv(in_channels, out_channels, has_bias=False)

    def layers(self, *, doubles_time: bool, doubles_space: bool) -> list[Layer]:
        """What frames pass, in order."""
        enlarge = partial(self.enlarge, doubles_time=doubles_time, doubles_space=doubles_space)
        return [*self.blocks, lambda x, state: enlarge(x)]

    def enlarge(self, x: mx.array, *, doubles_time: bool, doubles_space: bool) -> mx.array:
        """[B, T, H, W, C] → [B, t, h, w, O].

        The frames come before the pixels: repeating pixels changes nothing about a product of channels.
        """
        batch, count, height, width, channels = x.shape
        # The last channels make the last frame, which is the one that stands for all.
        weight = self.grow.weight[-(1 + doubles_time) * channels :]
        grown = (x @ weight.T).reshape(batch, count, height, width, -1, channels)
        frames = grown.transpose(0, 1, 4, 2, 3, 5).reshape(batch, -1, height, width, channels)
        if doubles_space:
            return convolve_doubled(frames, self.widen.weight, mx.zeros(self.widen.weight.shape[0]))
        return self.widen(frames)


class TinyDecoder(nn.Module):
    """Normalised latents → pixels.

    Args:
        config: sizes.

    Source: madebyollin/taehv taehv.py, TAEHV.
    """

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.entry = FrameConv(config.z_dim, widths[0])
        self.stages = [
            TinyStage(into, out, doubles_time=doubles)
            for (into, out), doubles in zip(pairwise(widths), DOUBLES_TIME, strict=True)
        ]
        self.exit = FrameConv(widths[-1], COLOURS * config.patch_size**2)

    def decode(self, latents: mx.array, state: StreamState, form: TinyForm = WHOLE) -> Iterator[mx.array]:
        """Decode the stream's next latents.

        Args:
            latents: [B, T, H, W, C], normalised, as the transformer makes them.
            state: of this stream; a fresh one for every clip.
            form: what is enlarged.

        Yields:
            Pixels [B, f, h, w, 3], 0 for black and 1 for white, not clamped: the frames of all latents, those
            to be trimmed among them.
        """
        state.admit(latents)
        for packed in run_stages(self._stages(form), latents, FRAME_BY_FRAME, state):
            yield shuffle_pixels(packed, self.config.patch_size)

    def _stages(self, form: TinyForm) -> list[Sequence[Layer]]:
        first, *others = (
            stage.layers(doubles_time=time, doubles_space=space)
            for stage, time, space in zip(self.stages, form.time, form.space, strict=True)
        )
        return [[lambda x, state: self._enter(x), *first], *others, [lambda x, state: self.exit(relu(x))]]

    def _enter(self, latents: mx.array) -> mx.array:
        return relu(self.entry(mx.tanh(latents / CLAMP) * CLAMP))


def relu(x: mx.array) -> mx.array:
    """The positive part, any shape."""
    return mx.maximum(x, 0)
