"""VACE's context: what of a video stays, what may change, where, and the pictures of what is to appear."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import (
    ReadFrames,
    ReadMasks,
    encode_frames,
    encode_picture,
    grey_frames,
    read_clip,
    read_masks,
)
from mlx_video.conditioning.frames import Encoding, FrameEncoder
from mlx_video.geometry import VideoGeometry
from mlx_video.models.block_context import Pass
from mlx_video.models.control.vace import VACEHook, VACETransformer
from mlx_video.models.transformer import WanTransformer

CELL = 8
"""Pixels of a latent cell's side; each becomes a channel of the mask."""


@dataclass(frozen=True, slots=True)
class VACESource:
    """What the user gave a VACE model.

    Attributes:
        video: None for grey frames.
        mask: where something is to be made; None for everywhere.
        references: pictures of what is to appear, float32 [H, W, 3] in [-1, 1], of the video's size.
        repaints: whether the model sees the video's pixels under the mask, to paint over them; it sees grey
            otherwise. Without a mask it sees the video in any case.
    """

    video: ReadFrames | None = None
    mask: ReadMasks | None = None
    references: Sequence[np.ndarray] = ()
    repaints: bool = False


def encode_vace_context(
    encode: FrameEncoder, source: VACESource, geometry: VideoGeometry
) -> Encoding[mx.array]:
    """Encode what a VACE transformer reads.

    Args:
        encode: the VAE.
        source: from the user.
        geometry: of the video.

    Returns:
        [96, n + T, h, w], float32: latents of what stays, latents of what may change, the mask's pixels. The
        n references come first, each a latent frame.

    Source: Wan2.1 wan/vace.py, WanVace.vace_encode_frames, vace_encode_masks and vace_latent.
    """
    grey: mx.array | None = None
    parts = []
    for changing in (False, True):
        if not _is_grey(source, changing):
            frames = _masked_frames(source, geometry, changing)
            parts.append((yield from encode_frames(encode, frames, geometry)))
            continue
        if grey is None:
            grey = yield from encode_frames(encode, grey_frames(geometry), geometry)
        parts.append(grey)
    latents = mx.concatenate(parts)
    pictures = []
    for reference in source.references:
        picture = yield from encode_picture(encode, reference)
        pictures.append(mx.concatenate([picture, mx.zeros_like(picture)]))
    mask = mask_channels(read_masks(source.mask, geometry), geometry)
    mask = mx.pad(mask, [(0, 0), (len(pictures), 0), (0, 0), (0, 0)])
    return mx.concatenate([mx.concatenate([*pictures, latents], axis=1), mask])


def _is_grey(source: VACESource, changing: bool) -> bool:
    """Whether nothing of the video is in the part that may change, or in the part that stays."""
    if source.video is None:
        return True
    if changing:
        return source.mask is not None and not source.repaints
    return source.mask is None


def _masked_frames(source: VACESource, geometry: VideoGeometry, changing: bool) -> Iterator[np.ndarray]:
    clip, masks = read_clip(source.video, geometry), read_masks(source.mask, geometry)
    for frame, mask in zip(clip, masks, strict=True):
        yield frame * (mask == changing)[..., None]


def mask_channels(masks: Iterator[np.ndarray], geometry: VideoGeometry) -> mx.array:
    """Pixels of a mask as channels beside the latents.

    Of the frames that a latent frame packs, one stands for all: the middle one, on a scale of the whole
    video. So the first and the last frame never count in a video of more than one.

    Args:
        masks: bool [H, W] for each frame of the video.
        geometry: of the video.

    Returns:
        [64, T, h, w], float32; 1 where something is to be made.

    Source: Wan2.1 wan/vace.py, WanVace.vace_encode_masks (nearest-exact interpolation).
    """
    wanted = sampled_frames(geometry)
    picked = [mask for number, mask in enumerate(islice(masks, wanted[-1] + 1)) if number in wanted]
    rows, columns = geometry.height // CELL, geometry.width // CELL
    cells = np.stack(picked).reshape(len(wanted), rows, CELL, columns, CELL).transpose(2, 4, 0, 1, 3)
    return mx.array(cells.reshape(CELL * CELL, len(wanted), rows, columns).astype(np.float32))


def sampled_frames(geometry: VideoGeometry) -> list[int]:
    """Number of the frame whose mask each latent frame takes, rising."""
    count, frames = geometry.latent_shape[1], geometry.num_frames
    return [(2 * index + 1) * frames // (2 * count) for index in range(count)]


@dataclass(frozen=True, slots=True)
class VACEAddOn:
    """VACE in every pass of a transformer.

    Attributes:
        vace_context: [96, n + T, h, w].
        scales: of the hints: one for all VACE blocks, or one for each.
    """

    vace_context: mx.array
    scales: tuple[float, ...] = (1.0,)

    def take_frames(self, frames: Sequence[int]) -> VACEAddOn:
        """See `types.FrameAddOn`."""
        return replace(self, vace_context=self.vace_context[:, mx.array(list(frames))])

    def __call__(self, transformer: WanTransformer, one: Pass) -> Pass:
        """The pass with hints, unless all are scaled to nothing."""
        if not any(self.scales):
            return one
        network = cast(VACETransformer, transformer)
        count = len(network.config.vace_layers)
        scales = self.scales * count if len(self.scales) == 1 else self.scales
        return replace(one, hooks=(*one.hooks, VACEHook(network, self.vace_context, scales)))
