"""Conditioning units of speech-to-video: the sound, and what stands beside the noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_picture, group_frames
from mlx_video.conditioning.frames import Encoding, FrameEncoder
from mlx_video.conditioning.speech.pictures import fit_footage, fit_reference, pose_of_clip, read_footage
from mlx_video.conditioning.speech.sound import MOTION_FRAMES, SoundAddOn, read_sound_features, take_clip
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs, Work
from mlx_video.models.block_context import Pass
from mlx_video.models.speech.transformer import SpeechInputs, SpeechTokens, SpeechTransformer
from mlx_video.models.video_transformer import VideoTransformer
from mlx_video.request.speech import EXTRA_FRAMES

REFERENCE_FRAMES = 6
"""Frames before the first clip that are the reference image, where the video begins with it."""


@dataclass(frozen=True, slots=True)
class SpeechAddOn:
    """Poses, reference image and earlier frames in every pass of a transformer.

    Attributes:
        inputs: of the clip.
    """

    inputs: SpeechInputs

    def take_frames(self, frames: Sequence[int]) -> SpeechAddOn:
        """See `types.FrameAddOn`."""
        return replace(self, inputs=self.inputs.take_frames(mx.array(list(frames))))

    def __call__(self, transformer: VideoTransformer, one: Pass) -> Pass:
        """The pass with these tokens beside the video's."""
        tokens = SpeechTokens(cast(SpeechTransformer, transformer), self.inputs)
        return replace(one, hooks=(*one.hooks, tokens))


def _count_frames(inputs: UnitInputs) -> int:
    """Frames of a clip, as the sound counts them."""
    return inputs.geometry.num_frames + EXTRA_FRAMES


def _make_sound(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    yield from ()  # the audio encoder reports nothing
    first, count = inputs.part.first_frame, _count_frames(inputs)
    if path := inputs.options.get("audio_embeds"):
        layers = take_clip(read_sound_features(path, inputs.config.transformer.audio_dim or 0), first, count)
    else:
        layers = encoders.encode_sound(first, count)
    return {"sound_add_on": SoundAddOn(layers)}


SOUND = ConditioningUnit("sound", "audio", ("sound_add_on",), _make_sound)
"""Features of the sound of a clip, or those that the user gives."""


def _make_speech(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    reads_history = (
        inputs.part.history is not None
        or "motion_video" in inputs.footage
        or inputs.options["start_from_ref"]
    )
    geometry, fit = inputs.geometry, inputs.options["fit"]
    pixels = fit_reference(inputs.originals["image"], geometry.height, geometry.width, fit)
    with encoders.open_vae() as encode:
        reference = yield from encode_picture(encode, pixels)
        motion = (yield from _encode_history(encode, inputs, pixels)) if reads_history else None
        pose = yield from _encode_pose(encode, inputs)
        mx.eval(reference, motion, pose)
    before = reference if motion is None else motion
    return {"speech_add_on": SpeechAddOn(SpeechInputs(pose, reference, motion)), "latents_before": before}


SPEECH = ConditioningUnit("speech", "image", ("speech_add_on", "latents_before"), _make_speech)
"""Reference image, earlier frames and poses; the decoder sees one of the first two before the clip."""


def _encode_history(encode: FrameEncoder, inputs: UnitInputs, reference: np.ndarray) -> Encoding[mx.array]:
    """Latents of the frames before a clip: of the video so far, and before that what the user wants, or grey.

    Source: Wan2.2 wan/speech2video.py, WanS2V.generate.
    """
    made = inputs.part.history
    count = sum(1 for _ in made()) if made else 0
    both = chain(_first_history(inputs, reference), made() if made else ())
    frames = islice(both, count, None)  # of as many as are read at once, those that came last
    return (yield from encode(map(mx.array, group_frames(frames)), MOTION_FRAMES))


def _first_history(inputs: UnitInputs, reference: np.ndarray) -> Iterator[np.ndarray]:
    """Frames that stand before the first clip."""
    geometry, fit = inputs.geometry, inputs.options["fit"]
    if video := inputs.footage.get("motion_video"):
        shown = (fit_footage(frame, geometry.height, geometry.width, fit) for frame, _ in video.read())
        yield from islice(shown, MOTION_FRAMES)
        return
    at_end = REFERENCE_FRAMES if inputs.options["start_from_ref"] else 0
    grey = np.zeros_like(reference)
    yield from (grey for _ in range(MOTION_FRAMES - at_end))
    yield from (reference for _ in range(at_end))


def _encode_pose(encode: FrameEncoder, inputs: UnitInputs) -> Encoding[mx.array]:
    """Latents of the poses of a clip; zeros, which are no picture, where there are none."""
    geometry, video = inputs.geometry, inputs.footage.get("s2v_pose_video")
    if video is None:
        return mx.zeros(geometry.latent_shape)
    size, fit = (geometry.height, geometry.width), inputs.options["fit"]
    shown = (fit_footage(frame, *size, fit) for frame in read_footage(video, inputs.options.get("video_fps")))
    count = _count_frames(inputs)
    frames = pose_of_clip(shown, inputs.part.first_frame, count, size)
    latents = yield from encode(map(mx.array, group_frames(frames)), count + 1)
    return latents[:, 1:]  # without the frame that only begins the encoding
