"""Pixels, latent cells and tokens: the only arithmetic that turns one into another."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.errors import RequestError

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class VideoGeometry:
    """Sizes of one video in all three units.

    Attributes:
        width, height: pixels.
        num_frames: pixel frames, 4n+1 for a time stride of 4.
        latent_shape: [C, T, H, W] of the latents.
        grid: tokens (t, h, w).
    """

    width: int
    height: int
    num_frames: int
    latent_shape: tuple[int, int, int, int]
    grid: Triple

    @property
    def num_tokens(self) -> int:
        """Length of the transformer's sequence."""
        return self.grid[0] * self.grid[1] * self.grid[2]


def latent_frames(num_frames: int, stride_t: int = 4) -> int:
    """Latent frames of `num_frames` pixel frames: the first stands alone, then groups of `stride_t`."""
    return (num_frames - 1) // stride_t + 1


def pixel_frames(num_latent_frames: int, stride_t: int = 4) -> int:
    """Pixel frames that decoding gives; undoes :func:`latent_frames` for 4n+1 frames."""
    return (num_latent_frames - 1) * stride_t + 1


def check_num_frames(num_frames: int, stride_t: int = 4) -> None:
    """Refuse a frame count that the VAE cannot represent.

    Raises:
        RequestError: not of the form `stride_t`·n+1; the message names the two nearest counts.
    """
    if num_frames < 1:
        raise RequestError("num_frames", f"{num_frames}: a video has at least 1 frame.")
    below = pixel_frames(latent_frames(num_frames, stride_t), stride_t)
    if below != num_frames:
        raise RequestError(
            "num_frames",
            f"{num_frames}: must be {stride_t}n+1, because the VAE packs {stride_t} frames into one. "
            f"Nearest: {below} or {below + stride_t}.",
        )


def size_multiple(stride: Triple, patch_size: Triple) -> tuple[int, int]:
    """Pixels that (width, height) must be multiples of: VAE stride times patch size."""
    return stride[2] * patch_size[2], stride[1] * patch_size[1]


def round_size(width: int, height: int, stride: Triple, patch_size: Triple) -> tuple[int, int]:
    """The nearest (width, height) in pixels that the model can make; halves round down, never to zero.

    Raises:
        RequestError: a side is not positive.
    """
    for name, value in (("width", width), ("height", height)):
        if value < 1:
            raise RequestError(name, f"{value}: must be a positive number of pixels.")
    step_w, step_h = size_multiple(stride, patch_size)
    return _nearest_multiple(width, step_w), _nearest_multiple(height, step_h)


def _nearest_multiple(value: int, step: int) -> int:
    return max(step, (value + (step - 1) // 2) // step * step)


def measure(
    width: int, height: int, num_frames: int, *, z_dim: int, stride: Triple, patch_size: Triple
) -> VideoGeometry:
    """All sizes of a video.

    Args:
        width, height: pixels, already multiples of :func:`size_multiple`.
        num_frames: pixel frames.
        z_dim: latent channels.
        stride: VAE stride (t, h, w) in pixels.
        patch_size: transformer patch (t, h, w) in latent cells.

    Raises:
        ValueError: a side is no multiple of stride times patch.
    """
    step_w, step_h = size_multiple(stride, patch_size)
    if width % step_w or height % step_h:
        raise ValueError(f"{width}x{height} is no multiple of {step_w}x{step_h}")
    latent = (latent_frames(num_frames, stride[0]), height // stride[1], width // stride[2])
    grid = (latent[0] // patch_size[0], latent[1] // patch_size[1], latent[2] // patch_size[2])
    return VideoGeometry(width, height, num_frames, (z_dim, *latent), grid)
