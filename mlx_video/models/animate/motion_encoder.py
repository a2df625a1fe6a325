"""Motion encoder: a picture of a face to a vector that tells its expression, whoever the face is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import FACE_SIZE, FaceConfig
from mlx_video.models.elementwise import fused
from mlx_video.models.vae.convolutions import convolve_frames

SLOPE = 0.2
GAIN = math.sqrt(2)
BLUR = (1, 3, 3, 1)
NUM_LINEAR_LAYERS = 5


def blur(x: mx.array, padding: int) -> mx.array:
    """Average each pixel with its neighbours.

    Args:
        x: [n, H, W, C].
        padding: zeros around each picture, in pixels.

    Returns:
        [n, H + 2·padding - 3, W + 2·padding - 3, C].

    Source: Wan2.2 wan/modules/animate/motion_encoder.py, Blur.
    """
    x = mx.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    # The kernel is the product of a column and a row.
    for axis in (1, 2):
        x = _weighted_sum(_windows(x, axis))
        mx.eval(x)  # MLX takes the memory of all terms before it computes the first
    return x


def _windows(x: mx.array, axis: int) -> list[mx.array]:
    """Views of the first, second, ... neighbour of each result along an axis."""
    length = x.shape[axis] - len(BLUR) + 1
    before = (slice(None),) * axis
    return [x[(*before, slice(start, start + length))] for start in range(len(BLUR))]


def _weighted_sum(parts: Sequence[mx.array]) -> mx.array:
    first, *others = (weight / sum(BLUR) * part for weight, part in zip(BLUR, parts, strict=True))
    return sum(others, first)


def equalized(weight: mx.array) -> mx.array:
    """A weight [O, ...] as it multiplies, float32: stored weights of all layers have the same size."""
    return weight.astype(mx.float32) / math.sqrt(math.prod(weight.shape[1:]))


@fused
def _activate(x: mx.array, bias: mx.array) -> mx.array:
    return nn.leaky_relu(x + bias, SLOPE) * GAIN


class EqualConvolution(nn.Module):
    """Convolution whose weight is scaled by its inputs; behind it, where it has a bias, a leaky ReLU.

    Source: Wan2.2 wan/modules/animate/motion_encoder.py, EqualConv2d and FusedLeakyReLU.
    """

    def __init__(self, into: int, out: int, side: int, *, is_activated: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((out, side, side, into))
        if is_activated:
            self.bias = mx.zeros((1, 1, 1, out))

    def __call__(self, x: mx.array, *, padding: int = 0, stride: int = 1) -> mx.array:
        """[n, H, W, C] → [n, H', W', O], float32."""
        y = convolve_frames(x, equalized(self.weight), padding, stride)
        mx.eval(y)  # and the copies of the input that a convolution may make are gone
        if "bias" not in self:
            return y
        return _activate(y, self.bias.astype(mx.float32))


class EqualLinear(nn.Module):
    """Linear layer whose weight is scaled by its inputs, and whose bias is not.

    Source: Wan2.2 wan/modules/animate/motion_encoder.py, EqualLinear.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.weight = mx.zeros((out, into))
        self.bias = mx.zeros((out,))

    def __call__(self, x: mx.array) -> mx.array:
        """[n, in] → [n, out], float32."""
        return mx.addmm(self.bias.astype(mx.float32), x, equalized(self.weight).T)


class HalvingBlock(nn.Module):
    """Two convolutions beside a skip connection; halves height and width.

    Source: Wan2.2 wan/modules/animate/motion_encoder.py, ResBlock.
    """

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1 = EqualConvolution(into, into, 3)
        self.conv2 = EqualConvolution(into, out, 3)
        self.conv_skip = EqualConvolution(into, out, 1, is_activated=False)

    def __call__(self, x: mx.array) -> mx.array:
        """[n, H, W, C] → [n, H/2, W/2, O], float32."""
        y = self.conv2(blur(self.conv1(x, padding=1), 2), stride=2)
        skip = self.conv_skip(blur(x, 1)[:, ::2, ::2])
        return (y + skip) / GAIN


class MotionEncoder(nn.Module):
    """Convolutions down to one cell, linear layers, and a sum of learnt directions; float32 throughout.

    Source: Wan2.2 wan/modules/animate/motion_encoder.py, Generator.get_motion.
    """

    def __init__(self, config: FaceConfig) -> None:
        super().__init__()
        first, *_, last = channels = config.channels
        self.conv_in = EqualConvolution(3, first, 1)
        self.res_blocks = [HalvingBlock(*pair) for pair in pairwise(channels)]
        self.conv_out = EqualConvolution(last, config.style_dim, 4, is_activated=False)
        widths = [config.style_dim] * NUM_LINEAR_LAYERS + [config.num_directions]
        self.motion_network = [EqualLinear(*pair) for pair in pairwise(widths)]
        self.directions = mx.zeros((config.motion_dim, config.num_directions))

    def __call__(self, faces: mx.array) -> mx.array:
        """Encode faces.

        Args:
            faces: [n, 512, 512, 3] in [-1, 1].

        Returns:
            [n, motion_dim], float32.

        Raises:
            ValueError: the faces have another size.
        """
        if faces.shape[1:] != (FACE_SIZE, FACE_SIZE, 3):
            raise ValueError(f"faces of {faces.shape[1:]}, expected {(FACE_SIZE, FACE_SIZE, 3)}")
        x = self.conv_in(faces.astype(mx.float32))
        for block in self.res_blocks:
            x = block(x)
        x = self.conv_out(x).reshape(len(faces), -1)
        for layer in self.motion_network:  # with nothing between them
            x = layer(x)
        return x @ self._orthogonal_directions().T

    def encode_video(self, faces: Iterable[mx.array]) -> mx.array:
        """Encode a video one face at a time.

        Args:
            faces: [512, 512, 3] each, in [-1, 1].

        Returns:
            [F, motion_dim], float32, evaluated.
        """
        motions = []
        for face in faces:
            motions.append(self(face[None]))
            mx.eval(motions[-1])  # before the pictures of the next are made
        return mx.concatenate(motions)

    def _orthogonal_directions(self) -> mx.array:
        """Directions at right angles, [motion_dim, num_directions].

        The signs of its columns are those that Householder reflections give: the network is trained with
        them.
        """
        directions = np.array(self.directions.astype(mx.float32))
        return mx.array(np.linalg.qr(directions + np.float32(1e-8))[0])
