"""The user's images become latents and masks: frames that the video must show, and where."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import mlx.core as mx
import numpy as np

from mlx_video.events import FramesEncoded
from mlx_video.geometry import VideoGeometry
from mlx_video.media.fit import Fit
from mlx_video.media.fit import fit_frame as fit_picture
from mlx_video.media.resize import cover_lanczos, crop_to_aspect, resize_bicubic, to_unit_range

# Mask channels of a latent frame: one for each pixel frame packed into it.
MASK_CHANNELS = 4

Value = TypeVar("Value")
Encoding = Generator[FramesEncoded, None, Value]
"""Work that says how many frames it has encoded, and returns its result."""


class FrameEncoder(Protocol):
    """Frames → latents; `latents.encode.encode_chunks` with its VAE filled in."""

    def __call__(self, frames: Iterable[mx.array], num_frames: int) -> Encoding[mx.array]:
        """Encode chunks [f, H, W, 3] of one clip of so many frames to [C, T, h, w]."""


FrameFields = dict[str, mx.array]
"""Names of fields of `Conditioning` → their arrays."""


class ConditionFrames(Protocol):
    """How one kind of model takes its images."""

    def __call__(
        self, encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
    ) -> Encoding[FrameFields]:
        """Make the conditioning of a run.

        Args:
            encode: the VAE.
            images: first and perhaps last frame, uint8 [H, W, 3], from :func:`cut_images`.
            geometry: of the video.
        """


def concat_first_frame(
    encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Channels for a video that begins with an image: mask, then the encoded clip of it and grey frames.

    Args:
        encode: the VAE.
        images: the first frame, uint8 [H, W, 3], of any size: it is squashed into the video's.
        geometry: of the video.

    Returns:
        `concat_latents` [4 + C, T, h, w].

    Source: Wan2.1 and Wan2.2 wan/image2video.py, WanI2V.generate.
    """
    return (yield from concat_frames(encode, [fit_frame(images[0], geometry)], geometry))


def concat_first_and_last_frame(
    encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Channels for a video between two images; like :func:`concat_first_frame` otherwise.

    Where the images differ in size, the official code cuts the last one with height and width swapped and
    without resizing it. Here :func:`cut_images` gives it the shape of the first, so that both are squashed
    alike and what stands still between them stays in its place.

    Args:
        encode: the VAE.
        images: first and last frame, uint8 [H, W, 3].
        geometry: of the video, of any 4n+1 frames from 5 on.

    Returns:
        `concat_latents` [4 + C, T, h, w].

    Source: Wan2.1 wan/first_last_frame2video.py, WanFLF2V.generate.
    """
    frames = [fit_frame(image, geometry) for image in images]
    return (yield from concat_frames(encode, frames, geometry))


def concat_given_frames(
    encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Channels for a video that begins with an image and, where a second one is given, ends with that.

    Arguments and result as for :func:`concat_first_frame` and :func:`concat_first_and_last_frame`.
    """
    condition = concat_first_frame if len(images) == 1 else concat_first_and_last_frame
    return (yield from condition(encode, images, geometry))


def concat_frames(
    encode: FrameEncoder, frames: Sequence[mx.array], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Channels for a video that begins, and perhaps ends, with frames [1, H, W, 3] of its size."""
    latents = yield from encode(clip_chunks(geometry.num_frames, *frames), geometry.num_frames)
    kept = (0, geometry.num_frames - 1)[: len(frames)]
    return {"concat_latents": mx.concatenate([frame_mask(geometry, kept), latents])}


def hold_first_frame(
    encode: FrameEncoder, images: Sequence[np.ndarray], geometry: VideoGeometry
) -> Encoding[FrameFields]:
    """Latents of the first frame, for a model that is given it in place of noise.

    Args:
        encode: the VAE.
        images: the first frame, uint8 [H, W, 3]; resized to cover the video's size, its middle cut out.
        geometry: of the video.

    Returns:
        `first_frames` [C, 1, h, w].

    Source: Wan2.2 wan/textimage2video.py, WanTI2V.i2v.
    """
    covering = cover_lanczos(images[0], geometry.height, geometry.width)
    first_frames = yield from encode([mx.array(to_unit_range(covering))[None]], 1)
    return {"first_frames": first_frames}


def cut_images(
    images: Sequence[np.ndarray], geometry: VideoGeometry, *, to_video: bool, fit: Fit = "cover"
) -> tuple[np.ndarray, ...]:
    """Bring the user's images to one shape; all that follows sees the results only.

    Args:
        images: first and perhaps last frame, uint8 [H, W, 3].
        geometry: of the video.
        to_video: whether the user chose the video's size, so that images take its shape; otherwise the size
            follows the first image, which stays whole, and the last one takes the first one's shape.
        fit: "cover" cuts them, and leaves the rest at its own resolution; others as in `media.fit`.

    Returns:
        As many images, each [h, w, 3].
    """
    height, width = (geometry.height, geometry.width) if to_video else images[0].shape[:2]
    if fit == "cover":
        return tuple(crop_to_aspect(image, height, width) for image in images)
    return tuple(fit_picture(image, height, width, fit) for image in images)


def fit_frame(image: np.ndarray, geometry: VideoGeometry) -> mx.array:
    """Squash an image into the video's size with the official interpolation.

    Args:
        image: uint8 [H, W, 3].
        geometry: of the video.

    Returns:
        [1, height, width, 3] in [-1, 1] and slightly beyond, float32.

    Source: Wan2.1 wan/image2video.py, WanI2V.generate.
    """
    return mx.array(resize_bicubic(to_unit_range(image), geometry.height, geometry.width))[None]


def clip_chunks(num_frames: int, first: mx.array, last: mx.array | None = None) -> Iterator[mx.array]:
    """A clip of given frames with mid-grey ones between them, in chunks of 1, 4, 4, … frames.

    Args:
        num_frames: of the whole clip, 4n+1.
        first: [1, H, W, 3] in [-1, 1].
        last: [1, H, W, 3]; None for a clip that ends in grey.

    Yields:
        [f, H, W, 3]; the grey chunks are one and the same array.

    Raises:
        ValueError: the clip has no frame for `last`.
    """
    if last is not None and num_frames < 2:
        raise ValueError(f"{num_frames} frame: there is no last one besides the first.")
    yield first
    grey = mx.zeros((MASK_CHANNELS, *first.shape[1:]), first.dtype)
    chunks = (num_frames - 1) // MASK_CHANNELS
    for index in range(chunks):
        is_end = index == chunks - 1
        yield mx.concatenate([grey[1:], last]) if is_end and last is not None else grey


def frame_mask(geometry: VideoGeometry, kept: Iterable[int] = (0,)) -> mx.array:
    """Which pixel frames are given, laid out beside the latents.

    Args:
        geometry: of the video.
        kept: numbers of the given frames.

    Returns:
        [4, T, h, w], float32, 1 for given: channel c of latent frame t stands for the c-th pixel frame packed
        into it. The first latent frame holds one pixel frame only, so all its channels stand for that.

    Source: Wan2.1 wan/image2video.py, WanI2V.generate (msk).
    """
    flags = np.zeros(geometry.num_frames, np.float32)
    flags[list(kept)] = 1
    mask = pack_frames(flags[:, None, None])
    return mx.broadcast_to(mask, (MASK_CHANNELS, *geometry.latent_shape[1:]))


def pack_frames(values: np.ndarray) -> mx.array:
    """What is said of each pixel frame, laid out beside the latents.

    Args:
        values: [F, h, w], F = 4n+1.

    Returns:
        [4, T, h, w]: channel c of latent frame t stands for the c-th pixel frame packed into it; all channels
        of the first latent frame stand for the first pixel frame.
    """
    slots = np.concatenate([np.repeat(values[:1], MASK_CHANNELS, 0), values[1:]])
    return mx.array(slots.reshape(-1, MASK_CHANNELS, *values.shape[1:]).swapaxes(0, 1))


def impose_first_frames(latents: mx.array, first_frames: mx.array) -> mx.array:
    """Put the given first latent frames back in their places.

    Args:
        latents: [C, T, H, W].
        first_frames: [C, c, H, W].

    Returns:
        [C, T, H, W].

    Raises:
        ValueError: the frames do not fit the latents.

    Source: Wan2.2 wan/textimage2video.py, WanTI2V.i2v.
    """
    channels, frames, *sides = latents.shape
    given = first_frames.shape[1]
    if given > frames or first_frames.shape != (channels, given, *sides):
        raise ValueError(f"first_frames is {first_frames.shape}, for latents of {latents.shape}.")
    return mx.concatenate([first_frames, latents[:, given:]], axis=1)
