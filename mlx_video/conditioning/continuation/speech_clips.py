"""Clips of speech-to-video: each reads 73 frames of what is before it and shows none of them again."""

from __future__ import annotations

import math

from mlx_video.conditioning.continuation.part import MadeParts
from mlx_video.conditioning.continuation.way import Continuation, Length
from mlx_video.conditioning.speech.pictures import check_motion
from mlx_video.conditioning.speech.sound import (
    FRAME_RATE,
    MOTION_FRAMES,
    check_sound,
    count_clips,
    count_heard,
    read_sound_features,
)
from mlx_video.config import AudioEncoderConfig, ModelConfig
from mlx_video.errors import RequestError
from mlx_video.media.sound import read_sound
from mlx_video.media.sources.source_video import open_video
from mlx_video.request import GenerateRequest
from mlx_video.request.speech import EXTRA_FRAMES

_ENCODER = AudioEncoderConfig()
"""Every encoder of these models makes as many features of a sound."""


def _count_shared(request: GenerateRequest, config: ModelConfig, title: str) -> int:
    if request.continue_frames is not None:
        raise RequestError(
            "continue_frames",
            f"{request.continue_frames}: clips of {title} read {MOTION_FRAMES} frames. Leave the option out.",
        )
    if request.continue_from is not None and not isinstance(request.continue_from, MadeParts):
        raise RequestError(
            "continue_from",
            f"{title} begins with the sound, and another video has none of it. Give its last "
            f"{MOTION_FRAMES} frames as --motion-video.",
        )
    return MOTION_FRAMES


def _count_lost(request: GenerateRequest) -> int:
    """Frames of the first clip that only show how the picture comes about; none behind given ones."""
    return 0 if request.start_from_ref or request.motion_video is not None else EXTRA_FRAMES


def find_sound_length(request: GenerateRequest, config: ModelConfig) -> Length | None:
    """How many clips a sound makes, and where the last is cut: with the sound, as a player would.

    Raises:
        RequestError, MediaError: the sound, or the video of earlier frames, cannot be used.
    """
    if request.motion_video is not None:
        check_motion(open_video(request.motion_video))
    sound = None
    clip_frames = (request.num_frames or config.sampling.num_frames) + EXTRA_FRAMES
    if request.input_audio is not None:
        sound = read_sound(request.input_audio)
        check_sound(sound, _ENCODER.reach)
        clips = count_clips(count_heard(_ENCODER.count_features(len(sound.samples))), clip_frames)
        end: float = math.ceil(sound.seconds * FRAME_RATE)
        reason = f"{sound.name} lasts {sound.seconds:.2f} s"
    elif request.audio_embeds is not None:
        count = read_sound_features(request.audio_embeds, config.transformer.audio_dim or 0).shape[1]
        clips, end = -(-count // clip_frames), math.inf
        reason = f"{request.audio_embeds} has {count} frames"
    else:
        return None
    clips = min(clips, request.num_clips or clips)
    frames = min(clips * clip_frames - _count_lost(request), end)
    # A clip behind the end of the sound would show nothing.
    clips = -(-(int(frames) + _count_lost(request)) // clip_frames)
    return Length(clips, int(frames), reason, sound)


SPEECH_CLIPS = Continuation(
    _count_shared,
    is_shown_again=False,
    count_lost=_count_lost,
    extra_frames=EXTRA_FRAMES,
    reads_history=True,
    is_exact=True,
    reads_on=True,
    find_length=find_sound_length,
    matches_colours=False,
)
"""The way of speech-to-video models."""
