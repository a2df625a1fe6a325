"""Sizes of LongCat-Video's videos, by the shape of what they begin with."""

from __future__ import annotations

from collections.abc import Mapping

# Height / width of a picture → height and width of the video.
# Source: meituan-longcat/LongCat-Video longcat_video/utils/bukcet_config.py.
BUCKETS_480P = {
    0.26: (320, 1216), 0.31: (352, 1120), 0.38: (384, 1024), 0.43: (416, 960), 0.52: (448, 864),
    0.58: (480, 832), 0.67: (512, 768), 0.74: (544, 736), 0.86: (576, 672), 0.95: (608, 640),
    1.05: (640, 608), 1.17: (672, 576), 1.29: (704, 544), 1.35: (736, 544), 1.50: (768, 512),
    1.67: (800, 480), 1.73: (832, 480), 2.00: (896, 448), 2.31: (960, 416), 2.58: (992, 384),
    2.75: (1056, 384), 3.09: (1088, 352), 3.70: (1184, 320), 3.80: (1216, 320), 3.90: (1248, 320),
    4.00: (1280, 320),
}  # fmt: skip
# 720p, in multiples of 64.
BUCKETS_REFINED = {
    0.22: (448, 2048), 0.29: (512, 1792), 0.36: (576, 1600), 0.45: (640, 1408), 0.55: (704, 1280),
    0.63: (768, 1216), 0.76: (832, 1088), 0.88: (896, 1024), 1.00: (960, 960), 1.14: (1024, 896),
    1.31: (1088, 832), 1.50: (1152, 768), 1.58: (1216, 768), 1.82: (1280, 704), 1.91: (1344, 704),
    2.20: (1408, 640), 2.30: (1472, 640), 2.67: (1536, 576), 2.89: (1664, 576), 3.62: (1856, 512),
    3.75: (1920, 512),
}  # fmt: skip
LARGEST_480P = max(height * width for height, width in BUCKETS_480P.values())


def choose_bucket(height: int, width: int, area: int) -> tuple[int, int]:
    """The 480p size that the model was trained at for pictures of a shape, whatever the area.

    Args:
        height, width: of the picture, in pixels.
        area: not used; all these sizes have nearly the same.

    Returns:
        Width and height of the video. The picture is stretched to it, by a few hundredths at most of those
        that are neither long nor tall.
    """
    return choose_from(BUCKETS_480P, height, width)


def choose_from(buckets: Mapping[float, tuple[int, int]], height: int, width: int) -> tuple[int, int]:
    """Width and height of the size whose shape comes nearest to that of a picture."""
    nearest = min(buckets, key=lambda ratio: abs(ratio - height / width))
    return buckets[nearest][1], buckets[nearest][0]
