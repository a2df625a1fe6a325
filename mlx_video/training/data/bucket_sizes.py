"""Sizes that clips are brought to, as musubi-tuner and DiffSynth-Studio choose them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from mlx_video.errors import DatasetError

Size = tuple[int, int]
"""Width and height in pixels."""

MUSUBI_STEP = 16
"""What both sides of a bucket are multiples of, for a model that takes such; more where it needs more."""


class SizeRule(Protocol):
    """Chooses the size of examples."""

    def choose(self, width: int, height: int, multiple: Size) -> Size:
        """The size of an example.

        Args:
            width, height: pixels of the clip.
            multiple: what the model's width and height are multiples of.

        Raises:
            DatasetError: the model makes no such size; the message lacks the clip's name.
        """


@dataclass(frozen=True, slots=True)
class BucketSizes:
    """musubi-tuner's sizes: of a list of shapes with about the area of `resolution`, the nearest in shape.

    Attributes:
        resolution: width and height in pixels, of which the area counts.
        enable_bucket: whether there is a list; else every clip gets `resolution` itself.
        no_upscale: whether a clip of less area keeps its size, rounded down.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/bucket.py, BucketSelector.
    """

    resolution: Size
    enable_bucket: bool = True
    no_upscale: bool = False

    def choose(self, width: int, height: int, multiple: Size) -> Size:
        """See :class:`SizeRule`."""
        if not self.enable_bucket:
            return _checked(self.resolution, multiple)
        step = math.lcm(MUSUBI_STEP, *multiple)
        area = self.resolution[0] * self.resolution[1]
        if self.no_upscale and width * height <= area:
            return _kept_size(width, height, step)
        sizes, ratio = list_buckets(*self.resolution, step), width / height
        return min(sizes, key=lambda size: abs(size[0] / size[1] - ratio))


def _kept_size(width: int, height: int, step: int) -> Size:
    size = width - width % step, height - height % step
    if not all(size):
        raise DatasetError(
            f"{width}x{height} pixels are less than {step} on a side. Leave bucket_no_upscale out, or take "
            "larger clips."
        )
    return size


def list_buckets(width: int, height: int, step: int = MUSUBI_STEP) -> tuple[Size, ...]:
    """The sizes of buckets of an area, sorted.

    Args:
        width, height: in pixels; only their product counts.
        step: what all sides are multiples of.

    Raises:
        DatasetError: the area is too small for any.
    """
    area = width * height
    side = int(math.sqrt(area))
    smallest = side // 2 - side // 2 % step
    if not smallest:
        raise DatasetError(
            f"resolution {width}x{height} is too small for buckets of {step} pixels. Take at least "
            f"{2 * step}x{2 * step}, or set enable_bucket = false."
        )
    sizes = set[Size]()
    for first in range(smallest, side + step, step):
        second = area // first
        second -= second % step
        sizes |= {(first, second), (second, first)}
    return tuple(sorted(sizes))


@dataclass(frozen=True, slots=True)
class LimitedSizes:
    """DiffSynth-Studio's sizes: one for all clips, or each clip's own down to an area, rounded down.

    Attributes:
        size: of all clips; None for their own.
        max_pixels: of a frame, at most, where `size` is None.

    Source: modelscope/DiffSynth-Studio diffsynth/core/data/operators.py, ImageCropAndResize.get_height_width.
    """

    size: Size | None = None
    max_pixels: int = 1024 * 1024

    def choose(self, width: int, height: int, multiple: Size) -> Size:
        """See :class:`SizeRule`."""
        if self.size is not None:
            return _checked(self.size, multiple)
        given = width, height
        if width * height > self.max_pixels:
            scale = (width * height / self.max_pixels) ** 0.5
            width, height = int(width / scale), int(height / scale)
        step_w, step_h = (math.lcm(MUSUBI_STEP, step) for step in multiple)
        size = width // step_w * step_w, height // step_h * step_h
        if not all(size):
            raise DatasetError(
                f"{given[0]}x{given[1]} pixels leave less than {step_w}x{step_h} of {self.max_pixels:,}. "
                "Crop the clip, or give --width and --height."
            )
        return size


def _checked(size: Size, multiple: Size) -> Size:
    if any(side % step for side, step in zip(size, multiple, strict=True)):
        low = [max(step, side - side % step) for side, step in zip(size, multiple, strict=True)]
        raise DatasetError(
            f"size {size[0]}x{size[1]}: this model takes multiples of {multiple[0]}x{multiple[1]} pixels. "
            f"Nearest below: {low[0]}x{low[1]}."
        )
    return size
