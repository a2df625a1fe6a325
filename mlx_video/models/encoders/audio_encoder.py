"""wav2vec 2.0: samples of a sound to features, fifty a second, of every layer."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_video.config import AudioEncoderConfig
from mlx_video.models.elementwise import gelu_erf
from mlx_video.models.matmul import attend, project

EPS = 1e-5
FEATURES_AT_ONCE = 250
"""Features of the convolutions that are made together: five seconds of sound."""


class SoundConvolution(nn.Module):
    """Convolution in time without padding, layer norm, GELU.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py, Wav2Vec2LayerNormConvLayer.
    """

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride)
        self.layer_norm = nn.LayerNorm(channels, eps=EPS)

    def __call__(self, x: mx.array) -> mx.array:
        """[1, T, C] → [1, T', channels], float32."""
        weight, bias = self.conv.weight.astype(mx.float32), self.conv.bias.astype(mx.float32)
        return gelu_erf(self.layer_norm(mx.conv1d(x, weight, self.stride) + bias))


class PositionConvolution(nn.Module):
    """Grouped convolution whose result tells each feature where it is; its weight is a direction and lengths.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py,
    Wav2Vec2PositionalConvEmbedding.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.position_kernel
        self.weight_v = mx.zeros((width, kernel, width // config.position_groups))
        self.weight_g = mx.zeros((1, kernel, 1))
        self.bias = mx.zeros((width,))
        self.groups = config.position_groups

    def __call__(self, x: mx.array) -> mx.array:
        """[T, width] → [T, width], float32, in stretches that meet exactly."""
        direction = self.weight_v.astype(mx.float32)
        length = mx.sqrt(mx.square(direction).sum(axis=(0, 2), keepdims=True))
        weight = self.weight_g.astype(mx.float32) * direction / length
        kernel, count = weight.shape[1], len(x)
        padded = mx.pad(x, [(kernel // 2, kernel // 2), (0, 0)])
        stretches = []
        for first in range(0, count, FEATURES_AT_ONCE):
            last = min(first + FEATURES_AT_ONCE, count)
            # A kernel of even length would give one feature more at the end.
            stretch = padded[first : last + kernel - 1]
            stretches.append(mx.conv1d(stretch[None], weight, groups=self.groups)[0])
            mx.eval(stretches[-1])
        return gelu_erf(mx.concatenate(stretches) + self.bias.astype(mx.float32))


class SoundAttention(nn.Module):
    """Attention of all features to each other.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py, Wav2Vec2Attention.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        width = config.width
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def __call__(self, x: mx.array) -> mx.array:
        """[T, width] → [T, width], float32."""
        length, width = x.shape
        queries, keys, values = (
            project(layer, x, mx.float32).reshape(1, length, self.num_heads, -1).swapaxes(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(queries, keys, values, (width // self.num_heads) ** -0.5)
        return project(self.out_proj, mixed.swapaxes(1, 2).reshape(length, width), mx.float32)


class SoundFeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.width, config.mlp_width)
        self.output_dense = nn.Linear(config.mlp_width, config.width)

    def __call__(self, x: mx.array) -> mx.array:
        """[T, width] → [T, width], float32."""
        return project(
            self.output_dense, gelu_erf(project(self.intermediate_dense, x, mx.float32)), mx.float32
        )


class SoundBlock(nn.Module):
    """Self-attention and feed-forward, each behind a layer norm and added to what came in.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py,
    Wav2Vec2EncoderLayerStableLayerNorm.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.width, eps=EPS)
        self.attention = SoundAttention(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=EPS)
        self.feed_forward = SoundFeedForward(config)

    def __call__(self, x: mx.array) -> mx.array:
        """[T, width] → [T, width], float32."""
        x = x + self.attention(self.layer_norm(x))
        return x + self.feed_forward(self.final_layer_norm(x))


class Wav2Vec2Encoder(nn.Module):
    """Encodes a sound as speech-to-video models use it: what enters the first block, and leaves every one.

    Computes in float32 whatever the weights' type, as the official code does. Parameters carry the names of a
    converted folder's tensors.

    Source: transformers src/transformers/models/wav2vec2/modeling_wav2vec2.py, Wav2Vec2Model.
    """

    def __init__(self, config: AudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *[config.conv_width] * (len(config.conv_kernels) - 1))
        self.conv_layers = [
            SoundConvolution(channels, config.conv_width, kernel, stride)
            for channels, kernel, stride in zip(widths, config.conv_kernels, config.conv_strides, strict=True)
        ]
        self.feature_norm = nn.LayerNorm(config.conv_width, eps=EPS)
        self.feature_projection = nn.Linear(config.conv_width, config.width)
        self.position = PositionConvolution(config)
        self.layers = [SoundBlock(config) for _ in range(config.num_layers)]
        self.layer_norm = nn.LayerNorm(config.width, eps=EPS)

    def convolve(self, samples: mx.array) -> mx.array:
        """Samples [S], float32, normalized → features [T, conv_width], in stretches that meet exactly."""
        config = self.config
        stretches = []
        for first in range(0, config.count_features(len(samples)), FEATURES_AT_ONCE):
            last = min(first + FEATURES_AT_ONCE, config.count_features(len(samples))) - 1
            x = samples[first * config.hop : last * config.hop + config.reach][None, :, None]
            for layer in self.conv_layers:
                x = layer(x)
            mx.eval(x)
            stretches.append(x[0])
        return mx.concatenate(stretches)

    def __call__(self, samples: mx.array) -> Iterator[mx.array]:
        """Encode a sound.

        Args:
            samples: [S], float32, 16000 a second, of mean 0 and variance 1; as many as the convolutions reach
                over, at least.

        Yields:
            [T, width], float32, evaluated: features that enter block 0, then those that leave each block;
            of the last, as the norm behind it leaves them.

        Raises:
            ValueError: there are too few samples.
        """
        if len(samples) < self.config.reach:
            raise ValueError(f"{len(samples)} samples, the encoder needs {self.config.reach}")
        x = project(self.feature_projection, self.feature_norm(self.convolve(samples)), mx.float32)
        x = x + self.position(x)
        for block in self.layers:
            mx.eval(x)
            yield x
            x = block(x)
        # Before release 5 of transformers this was the last hidden state: what models were trained with.
        x = self.layer_norm(x)
        mx.eval(x)
        yield x
