"""Pixels, latent cells and tokens: the only arithmetic that turns one into another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

from mlx_video.errors import RequestError

Triple = tuple[int, int, int]

# TI2V-5B: VAE stride 16 times patch 2.
_BEST_SIZE_STEP = 32


@dataclass(frozen=True, slots=True)
class VideoGeometry:
    """Sizes of one video in all three units.

    Attributes:
        width, height: pixels.
        num_frames: pixel frames, 4n+1 for a time stride of 4.
        latent_shape: [C, T, H, W] of the latents.
        grid: tokens (t, h, w).
        output_scale: how many times wider and higher the VAE's decoder makes the frames.
    """

    width: int
    height: int
    num_frames: int
    latent_shape: tuple[int, int, int, int]
    grid: Triple
    output_scale: int = 1

    def with_leading(self, latent_frames: int) -> VideoGeometry:
        """Geometry of what is sampled where latent frames of references stand before the video's."""
        channels, frames, height, width = self.latent_shape
        tokens, rows, columns = self.grid
        longer = frames + latent_frames
        latent_shape = (channels, longer, height, width)
        return replace(self, latent_shape=latent_shape, grid=(tokens * longer // frames, rows, columns))

    @property
    def frames_of_latent(self) -> int:
        """Pixel frames of a latent frame but the first; 1 of a single frame."""
        return (self.num_frames - 1) // max(self.latent_shape[1] - 1, 1) or 1

    @property
    def num_tokens(self) -> int:
        """Length of the transformer's sequence."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def output_size(self) -> tuple[int, int]:
        """Width and height in pixels of the frames that leave the VAE, and of every result."""
        return self.width * self.output_scale, self.height * self.output_scale


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


def size_for_area(
    image_height: int, image_width: int, max_area: int, *, stride: int = 8, patch_size: int = 2
) -> tuple[int, int]:
    """The size of a video in the shape of an image, within an area; each side is rounded down on its own.

    Args:
        image_height: pixels.
        image_width: pixels.
        max_area: pixels of a frame, at most.
        stride: pixels of a latent cell.
        patch_size: latent cells of a token.

    Returns:
        (width, height) in pixels; a side of 0 for an image too long and thin for the area.

    Source: Wan2.1 wan/image2video.py, WanI2V.generate.
    """
    # The order of these operations decides cases like 832x480 within 832*480 pixels, which becomes 832x464.
    ratio = image_height / image_width
    rows = int(sqrt(max_area * ratio) // stride // patch_size * patch_size)
    columns = int(sqrt(max_area / ratio) // stride // patch_size * patch_size)
    return columns * stride, rows * stride


def size_as_shown(height: int, width: int, max_area: int) -> tuple[int, int]:
    """The size of a video that is as large as what decides it: (width, height) in pixels."""
    return width, height


def best_output_size(
    image_height: int, image_width: int, max_area: int, *, step: int = _BEST_SIZE_STEP
) -> tuple[int, int]:
    """The size of a video as near as can be to the shape of an image, within an area.

    Two candidates, width rounded down first and height rounded down first; the one nearer to the image's
    shape wins, height first in a tie.

    Args:
        image_height: pixels.
        image_width: pixels.
        max_area: pixels of a frame, at most.
        step: pixels that both sides are multiples of.

    Returns:
        (width, height) in pixels; a side of 0 for an image too long and thin for the area.

    Source: Wan2.2 wan/utils/utils.py, best_output_size.
    """
    ratio = image_width / image_height
    ideal_width = (max_area * ratio) ** 0.5
    ideal_height = max_area / ideal_width
    width, height = int(ideal_width // step * step), int(ideal_height // step * step)
    if not (width and height):
        return width, height
    width_first = width, int(max_area / width // step * step)
    height_first = int(max_area / height // step * step), height

    def misfit(size: tuple[int, int]) -> float:
        found = size[0] / size[1]
        return max(ratio / found, found / ratio)

    return width_first if misfit(width_first) < misfit(height_first) else height_first


def measure(
    width: int,
    height: int,
    num_frames: int,
    *,
    z_dim: int,
    stride: Triple,
    patch_size: Triple,
    output_scale: int = 1,
) -> VideoGeometry:
    """All sizes of a video.

    Args:
        width, height: pixels, already multiples of :func:`size_multiple`.
        num_frames: pixel frames.
        z_dim: latent channels.
        stride: VAE stride (t, h, w) in pixels.
        patch_size: transformer patch (t, h, w) in latent cells.
        output_scale: how many times wider and higher the VAE's decoder makes the frames.

    Raises:
        ValueError: a side is no multiple of stride times patch.
    """
    step_w, step_h = size_multiple(stride, patch_size)
    if width % step_w or height % step_h:
        raise ValueError(f"{width}x{height} is no multiple of {step_w}x{step_h}")
    latent = (latent_frames(num_frames, stride[0]), height // stride[1], width // stride[2])
    grid = (latent[0] // patch_size[0], latent[1] // patch_size[1], latent[2] // patch_size[2])
    return VideoGeometry(width, height, num_frames, (z_dim, *latent), grid, output_scale)
