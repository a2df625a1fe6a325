"""Channels of the Fun models beside the noise: a control video, first and last frame, or a masked video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import (
    ReadFrames,
    ReadMasks,
    encode_frames,
    encode_picture,
    read_clip,
    read_masks,
)
from mlx_video.conditioning.frames import MASK_CHANNELS, Encoding, FrameEncoder, pack_frames
from mlx_video.geometry import VideoGeometry
from mlx_video.models.block_context import Pass
from mlx_video.models.control.fun import FunTransformer, ReferenceHook
from mlx_video.models.transformer import WanTransformer

Slot = Literal["control", "start", "masked"]
"""A video that the result follows; a first frame; given frames behind the mask that says where they are."""

SLOTS: dict[int, tuple[Slot, ...]] = {
    16: ("start",),
    20: ("masked",),
    32: ("control", "start"),
    36: ("control", "masked"),
}
"""Number of channels beside the noise → what they hold, in order. No model has another number."""

CELL = 8
# Trilinear interpolation, which shrinks a mask eightfold without averaging, reads the middle of each cell.
_MIDDLE = slice(CELL // 2 - 1, CELL // 2 + 1)


@dataclass(frozen=True, slots=True)
class FunSource:
    """What the user gave a Fun model.

    Attributes:
        control: video that the result follows.
        image, end_image: first and last frame, float32 [H, W, 3] in [-1, 1], of the video's size.
        video, mask: to be filled in where the mask is white; both or neither.
    """

    control: ReadFrames | None = None
    image: np.ndarray | None = None
    end_image: np.ndarray | None = None
    video: ReadFrames | None = None
    mask: ReadMasks | None = None


def encode_slots(
    encode: FrameEncoder, source: FunSource, geometry: VideoGeometry, channels: int
) -> Encoding[mx.array]:
    """Encode what a Fun transformer takes beside the noise; what is not given are zeros.

    Args:
        encode: the VAE.
        source: from the user.
        geometry: of the video.
        channels: beside the noise, one of `SLOTS`.

    Returns:
        [channels, T, h, w], float32.

    Source: aigc-apps/VideoX-Fun videox_fun/pipeline/pipeline_wan_fun_control.py and
    pipeline_wan_fun_inpaint.py, __call__.
    """
    slots = {"control": _encode_control, "start": _encode_start, "masked": _encode_masked}
    parts = []
    for slot in SLOTS[channels]:
        parts.append((yield from slots[slot](encode, source, geometry)))
    return mx.concatenate(parts)


def _encode_control(encode: FrameEncoder, source: FunSource, geometry: VideoGeometry) -> Encoding[mx.array]:
    if source.control is None:
        return mx.zeros(geometry.latent_shape)
    return (yield from encode_frames(encode, read_clip(source.control, geometry), geometry))


def _encode_start(encode: FrameEncoder, source: FunSource, geometry: VideoGeometry) -> Encoding[mx.array]:
    """Latents of the first frame alone, then zeros: no grey frames are encoded here."""
    frames = geometry.latent_shape[1]
    if source.image is None or frames == 1:
        return mx.zeros(geometry.latent_shape)
    first = yield from encode_picture(encode, source.image)
    return mx.pad(first, [(0, 0), (0, frames - 1), (0, 0), (0, 0)])


def _encode_masked(encode: FrameEncoder, source: FunSource, geometry: VideoGeometry) -> Encoding[mx.array]:
    """Mask of what is given [4], and its latents [16]."""
    if source.video is None and source.image is None:
        channels, *sizes = geometry.latent_shape
        return mx.zeros((MASK_CHANNELS + channels, *sizes))
    latents = yield from encode_frames(encode, _given_frames(source, geometry), geometry)
    return mx.concatenate([keep_channels(_masks(source, geometry)), latents])


def _masks(source: FunSource, geometry: VideoGeometry) -> Iterator[np.ndarray]:
    """Where each frame is to be made, bool [H, W]."""
    given = _given_images(source, geometry)
    for number, mask in enumerate(read_masks(source.mask, geometry)):
        yield np.zeros_like(mask) if number in given else mask


def _given_frames(source: FunSource, geometry: VideoGeometry) -> Iterator[np.ndarray]:
    given = _given_images(source, geometry)
    clip, masks = read_clip(source.video, geometry), read_masks(source.mask, geometry)
    for number, (frame, mask) in enumerate(zip(clip, masks, strict=True)):
        yield given[number] if number in given else frame * ~mask[..., None]


def _given_images(source: FunSource, geometry: VideoGeometry) -> dict[int, np.ndarray]:
    ends = {0: source.image, geometry.num_frames - 1: source.end_image}
    return {number: image for number, image in ends.items() if image is not None}


def keep_channels(masks: Iterator[np.ndarray]) -> mx.array:
    """What is given of each frame, laid out beside the latents.

    Args:
        masks: where each frame is to be made, bool [H, W].

    Returns:
        [4, T, h, w], float32, 1 for given: channel c of latent frame t stands for the c-th frame packed into
        it; all channels of the first latent frame stand for the first frame.

    Source: aigc-apps/VideoX-Fun videox_fun/pipeline/pipeline_wan_fun_inpaint.py, __call__ and resize_mask.
    """
    return pack_frames(np.stack([_shrink(mask) for mask in masks]))


def _shrink(mask: np.ndarray) -> np.ndarray:
    rows, columns = (side // CELL for side in mask.shape)
    cells = mask.reshape(rows, CELL, columns, CELL)[:, _MIDDLE, :, _MIDDLE]
    return 1 - cells.mean((1, 3), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class ReferenceAddOn:
    """A reference image in every pass of a transformer.

    Attributes:
        reference: its latents, [C, h, w]; zeros where there is no image, as in training.
    """

    reference: mx.array

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with the reference's tokens before the video's."""
        tokens = cast(FunTransformer, transformer).embed_reference(self.reference)
        return replace(one, hooks=(*one.hooks, ReferenceHook(tokens)))
