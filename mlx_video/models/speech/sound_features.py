"""What a speech-to-video transformer makes of sound features: tokens and a vector for each latent frame."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import TransformerConfig
from mlx_video.models.matmul import project

NUM_LAYERS = 25
"""Layers of the audio encoder that are mixed: what enters its first block, and leaves each of 24."""
NUM_GROUPS = 4
"""Tokens of a latent frame that are made of the sound; one more is the same everywhere."""
KERNEL = 3
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class SoundFeatures:
    """A sound as blocks hear it.

    Attributes:
        tokens: [F, 5, dim], float32, of each latent frame.
        vectors: [F, dim], float32, likewise.
    """

    tokens: mx.array
    vectors: mx.array

    def take_frames(self, frames: mx.array) -> SoundFeatures:
        """The features of some frames, by their numbers."""
        return SoundFeatures(self.tokens[frames], self.vectors[frames])


class CausalConvolution(nn.Module):
    """Convolution in time that sees the past alone; before the first moment that one is repeated.

    Source: Wan2.2 wan/modules/s2v/auxi_blocks.py, CausalConv1d.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels_in, channels, KERNEL, stride)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, T, C] → [n, ceil(T / stride), channels], float32."""
        before = mx.repeat(x[:, :1], KERNEL - 1, axis=1)
        weight, bias = self.conv.weight.astype(mx.float32), self.conv.bias.astype(mx.float32)
        return mx.conv1d(mx.concatenate([before, x], axis=1), weight, self.stride) + bias


def _activate(x: mx.array) -> mx.array:
    return nn.silu(mx.fast.layer_norm(x, None, None, EPS))


class SoundMixer(nn.Module):
    """Convolutions that bring the frame rate of the video down to that of latents, for groups and as a whole.

    Source: Wan2.2 wan/modules/s2v/auxi_blocks.py, MotionEncoder_tc.
    """

    def __init__(self, audio_dim: int, dim: int) -> None:
        super().__init__()
        quarter, half = dim // 4, dim // 2
        self.conv1_local = CausalConvolution(audio_dim, NUM_GROUPS * quarter)
        self.conv1_global = CausalConvolution(audio_dim, quarter)
        self.conv2 = CausalConvolution(quarter, half, 2)
        self.conv3 = CausalConvolution(half, dim, 2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = mx.zeros((1, 1, 1, dim))

    def _shorten(self, x: mx.array) -> mx.array:
        """[n, T, dim / 4] → [n, ceil(T / 4), dim]."""
        return _activate(self.conv3(_activate(self.conv2(_activate(x)))))

    def __call__(self, x: mx.array) -> SoundFeatures:
        """[T, audio_dim], float32 → features of ceil(T / 4) latent frames."""
        groups = mx.stack([*mx.split(self.conv1_local(x[None])[0], NUM_GROUPS, axis=-1)])
        tokens = self._shorten(groups).swapaxes(0, 1)
        padding = self.padding_tokens.astype(mx.float32)[0]
        padding = mx.broadcast_to(padding, (len(tokens), 1, padding.shape[-1]))
        vectors = project(self.final_linear, self._shorten(self.conv1_global(x[None]))[0], mx.float32)
        return SoundFeatures(mx.concatenate([tokens, padding], axis=1), vectors)


class SoundEncoder(nn.Module):
    """Mixture of the audio encoder's layers, and the convolutions behind it; all in float32.

    Source: Wan2.2 wan/modules/s2v/audio_utils.py, CausalAudioEncoder.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.audio_dim is not None
        self.weights = mx.zeros((1, NUM_LAYERS, 1, 1))
        self.encoder = SoundMixer(config.audio_dim, config.dim)

    def __call__(self, layers: mx.array, num_before: int) -> SoundFeatures:
        """Encode the sound of a clip.

        Args:
            layers: [25, T, audio_dim], float32, for each frame of the clip.
            num_before: frames before the clip, for which the first one's sound stands; their features are
                left out again.

        Returns:
            Features of T / 4 latent frames.
        """
        shares = nn.silu(self.weights.astype(mx.float32)).reshape(-1, 1, 1)
        mixed = (layers * shares / shares.sum()).sum(axis=0)
        before = mx.repeat(mixed[:1], num_before, axis=0)
        found = self.encoder(mx.concatenate([before, mixed]))
        skipped = (num_before + 3) // 4
        return SoundFeatures(found.tokens[skipped:], found.vectors[skipped:])
