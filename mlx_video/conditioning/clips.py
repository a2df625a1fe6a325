"""Clips on their way to the VAE: read anew for every use, one frame at a time, and never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.frames import Encoding, FrameEncoder
from mlx_video.geometry import VideoGeometry
from mlx_video.media.resize import to_unit_range

FRAMES_OF_A_GROUP = 4

ReadFrames = Callable[[], Iterator[np.ndarray]]
"""Begins a clip anew: frames of the video's size and number, uint8 [H, W, 3]."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptFrames:
    """A clip in memory. A `ReadFrames`.

    Attributes:
        frames: uint8 [F, H, W, 3].
    """

    frames: np.ndarray

    def __call__(self) -> Iterator[np.ndarray]:
        """The frames from the first on."""
        return iter(self.frames)


ReadMasks = Callable[[], Iterator[np.ndarray]]
"""Begins a mask anew: bool [H, W] for each frame of the video, true where something is to be made."""


def encode_frames(
    encode: FrameEncoder, frames: Iterable[np.ndarray], geometry: VideoGeometry
) -> Encoding[mx.array]:
    """Encode a clip frame by frame.

    Args:
        encode: the VAE.
        frames: float32 [H, W, 3] in [-1, 1], of the video's size and number.
        geometry: of the video.

    Returns:
        [C, T, h, w].
    """
    return (yield from encode(map(mx.array, group_frames(frames)), geometry.num_frames))


def group_frames(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames in the groups that the VAE packs: the first alone, then four by four."""
    frames = iter(frames)
    length = 1
    while group := list(islice(frames, length)):
        yield np.stack(group)
        length = FRAMES_OF_A_GROUP


def encode_picture(encode: FrameEncoder, pixels: np.ndarray) -> Encoding[mx.array]:
    """Encode a picture as a clip of its own.

    Args:
        encode: the VAE.
        pixels: float32 [H, W, 3] in [-1, 1], of the video's size.

    Returns:
        [C, 1, h, w].
    """
    return (yield from encode([mx.array(pixels)[None]], 1))


def read_clip(read: ReadFrames | None, geometry: VideoGeometry) -> Iterator[np.ndarray]:
    """Frames of a clip, float32 [H, W, 3] in [-1, 1]; grey ones where there is no clip."""
    if read is None:
        return grey_frames(geometry)
    return map(to_unit_range, read())


def grey_frames(geometry: VideoGeometry) -> Iterator[np.ndarray]:
    """Frames without content; grey lies between black and white, at 0."""
    grey = np.zeros((geometry.height, geometry.width, 3), np.float32)
    return (grey for _ in range(geometry.num_frames))


def read_masks(read: ReadMasks | None, geometry: VideoGeometry) -> Iterator[np.ndarray]:
    """Masks of all frames, bool [H, W]; white ones where there is no mask."""
    if read is not None:
        return read()
    white = np.ones((geometry.height, geometry.width), bool)
    return (white for _ in range(geometry.num_frames))


def clip_with_frames(
    given: Mapping[int, np.ndarray], geometry: VideoGeometry
) -> tuple[ReadFrames, ReadMasks]:
    """A clip of which some frames are given, and the mask of all others.

    Args:
        given: number of a frame → uint8 [H, W, 3], of the video's size.
        geometry: of the video.

    Returns:
        The clip, which is mid-grey elsewhere, and its mask.
    """
    # The level next to 0 in [-1, 1]; the mask covers it.
    grey = np.full((geometry.height, geometry.width, 3), 128, np.uint8)
    masks = {is_given: np.full(grey.shape[:2], not is_given) for is_given in (True, False)}
    numbers = range(geometry.num_frames)
    return (
        lambda: (given.get(number, grey) for number in numbers),
        lambda: (masks[number in given] for number in numbers),
    )
