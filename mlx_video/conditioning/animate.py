"""Inputs of Animate: a character, poses, a face, and in replacement mode what stays of a video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import ReadFrames, ReadMasks, encode_frames, encode_picture, read_clip
from mlx_video.conditioning.frames import MASK_CHANNELS, pack_frames
from mlx_video.conditioning.latent_frames import LatentFrames
from mlx_video.conditioning.made_once import MadeOnce
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs, Work
from mlx_video.config import FACE_SIZE
from mlx_video.geometry import VideoGeometry
from mlx_video.media.fit import letterbox_character
from mlx_video.media.resize import to_unit_range
from mlx_video.models.animate.animate import AnimateHook, AnimateTransformer
from mlx_video.models.block_context import Pass
from mlx_video.models.video_transformer import VideoTransformer

POSES, FACE = "animate_pose_video", "animate_face_video"
BACKGROUND, MASK = "animate_inpaint_video", "animate_mask_video"
CELL = 8
LEADING_FRAMES = 1
"""Latent frames before the video's: the picture of the character."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """The face of a character in a clip, as tokens of a transformer, and the black one in its place.

    Attributes:
        read: the face's frames, uint8 [512, 512, 3].
        num_frames: of the video.
    """

    read: ReadFrames
    num_frames: int
    _tokens: MadeOnce[mx.array] = field(default_factory=MadeOnce, init=False, repr=False)

    def tokens(self, network: AnimateTransformer, *, is_black: bool) -> mx.array:
        """Tokens of all frames."""
        return self._tokens.take(
            network, is_black, lambda: network.encode_face(self._frames(is_black=is_black))
        )

    def _frames(self, *, is_black: bool) -> Iterator[mx.array]:
        if is_black:
            return repeat(mx.full((FACE_SIZE, FACE_SIZE, 3), -1.0), self.num_frames)
        return (mx.array(to_unit_range(face)) for face in self.read())


@dataclass(frozen=True, slots=True, eq=False)
class AnimateAddOn:
    """Poses and a face in every pass of a transformer; in those that guidance leads away from, a black face.

    Attributes:
        pose_latents: [C, T, h, w].
        face: of the character.
        latent_frames: numbers of those of the leading and the video's latent frames that are seen; None for
            all.
    """

    pose_latents: mx.array
    face: Face
    latent_frames: tuple[int, ...] | None = None

    def __call__(self, transformer: VideoTransformer, one: Pass) -> Pass:
        """The pass with a hook for both."""
        network = cast(AnimateTransformer, transformer)
        face_tokens, poses = self.face.tokens(network, is_black=one.is_negative), self.pose_latents
        if self.latent_frames is not None:
            face_tokens = face_tokens[mx.array(self.latent_frames)]
            poses = poses[:, mx.array(self.latent_frames[LEADING_FRAMES:]) - LEADING_FRAMES]
        return replace(one, hooks=(*one.hooks, AnimateHook(network, poses, face_tokens)))

    def take_frames(self, frames: Sequence[int]) -> AnimateAddOn:
        """See `types.FrameAddOn`; leading frames are among them."""
        known = self.latent_frames
        seen = tuple(frames) if known is None else tuple(known[frame] for frame in frames)
        return replace(self, latent_frames=seen)


def given_frames(
    history: Iterator[np.ndarray], background: ReadFrames | None, geometry: VideoGeometry
) -> Iterator[np.ndarray]:
    """What a part sees of its own frames.

    Args:
        history: the last frames of the part before, float32 [H, W, 3] in [-1, 1].
        background: what stays of a video; None for grey frames.
        geometry: of the video.

    Yields:
        The frames of the history, and in place of all later ones those of the background.
    """
    return (
        frame if before is None else before
        for frame, before in zip(read_clip(background, geometry), chain(history, repeat(None)), strict=False)
    )


def keep_channels(num_given: int, masks: ReadMasks | None, geometry: VideoGeometry) -> mx.array:
    """What is given of each frame, laid out beside the latents.

    Args:
        num_given: frames at the start that are given whole.
        masks: where each frame is to be made, bool [H, W]; None for everywhere.
        geometry: of the video.

    Returns:
        [4, T, h, w], float32, 1 for given: channel c of latent frame t stands for the c-th frame packed into
        it; all channels of the first latent frame stand for the first frame.

    Source: Wan2.2 wan/animate.py, WanAnimate.get_i2v_mask (with nearest interpolation).
    """
    _, _, rows, columns = geometry.latent_shape
    kept = np.zeros((geometry.num_frames, rows, columns), np.float32)
    if masks is not None:
        for number, mask in enumerate(islice(masks(), geometry.num_frames)):
            kept[number] = ~mask[::CELL, ::CELL]
    kept[:num_given] = 1
    return pack_frames(kept)


def read_character(inputs: UnitInputs) -> np.ndarray:
    """The picture of the character, float32 [H, W, 3] in [-1, 1], whole between black bars."""
    geometry = inputs.geometry
    return to_unit_range(letterbox_character(inputs.originals["image"], geometry.height, geometry.width))


def _make_animate(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    geometry, character = inputs.geometry, read_character(inputs)
    image_tokens = encoders.encode_images([character])
    history = [*inputs.part.history()] if inputs.part.history else []
    background, masks = inputs.videos.get(BACKGROUND), inputs.masks.get(MASK)
    with encoders.open_vae() as encode:
        # By itself: encoded with the frames behind it, it would leak into them.
        reference = yield from encode_picture(encode, character)
        given = yield from encode_frames(encode, given_frames(iter(history), background, geometry), geometry)
        poses = yield from encode_frames(encode, read_clip(inputs.videos[POSES], geometry), geometry)
        mx.eval(reference, given, poses)
    kept = keep_channels(len(history), masks, geometry)
    whole = mx.ones((MASK_CHANNELS, LEADING_FRAMES, *kept.shape[2:]))
    concat_latents = mx.concatenate(
        [mx.concatenate([whole, kept], axis=1), mx.concatenate([reference, given], axis=1)]
    )
    return {
        "image_tokens": image_tokens,
        "concat_latents": concat_latents,
        "frames": LatentFrames(LEADING_FRAMES, is_one_draw=True),
        "animate_add_on": AnimateAddOn(poses, Face(inputs.videos[FACE], geometry.num_frames)),
    }


ANIMATE = ConditioningUnit(
    "animate", "image", ("image_tokens", "concat_latents", "frames", "animate_add_on"), _make_animate
)
"""All that Animate reads besides the prompt.

Source: Wan2.2 wan/animate.py, WanAnimate.generate.
"""
