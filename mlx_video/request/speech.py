"""What a video says, or sings: sound, and what speech-to-video models take beside it."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.errors import RequestError
from mlx_video.request.kinds import ReadPath, VideoSource
from mlx_video.request.option import at_least, option

SPEECH_GROUP = "speech"
EXTRA_FRAMES = 3
"""Frames of a clip that is decoded behind others, beyond those that its latents make alone."""
LEAST_FRAMES = 8
"""Frames of the shortest clip, of which the first one shows some."""


@dataclass(frozen=True)
class SpeechOptions:
    """Options of speech-to-video models."""

    input_audio: ReadPath | None = option(
        None,
        help="sound that is spoken or sung in the video: WAV, FLAC, MP3, M4A, or the sound track of a video; "
        "it decides how long the video is, and is heard in an MP4",
        group=SPEECH_GROUP,
        metavar="FILE",
        input="audio",
    )
    audio_embeds: ReadPath | None = option(
        None,
        help="features of a sound in place of the sound, 16 a second: a `.npy` or `.safetensors` file with "
        "one array `[1, 25, 1024, frames]`",
        group=SPEECH_GROUP,
        metavar="FILE",
        input="audio",
    )
    num_clips: int | None = option(
        None,
        help="most clips of a video with sound",
        group=SPEECH_GROUP,
        metavar="N",
        default_text="as many as the sound is long",
        check=at_least(1),
        affects="video",
    )
    infer_frames: int | None = option(
        None,
        help="frames of a clip of a video with sound, a multiple of 4; the first one shows 3 less",
        group=SPEECH_GROUP,
        metavar="N",
        default_text="80",
        check=at_least(1),
    )
    s2v_pose_video: VideoSource | None = option(
        None,
        help="video of drawn poses, as DWPose draws them, that a speech-to-video model follows",
        group=SPEECH_GROUP,
        metavar="PATH",
        input="footage",
    )
    motion_video: VideoSource | None = option(
        None,
        help="video of exactly 73 frames that a speech-to-video model goes on from, without showing them",
        group=SPEECH_GROUP,
        metavar="PATH",
        input="footage",
    )
    start_from_ref: bool = option(
        False, help="have a speech-to-video model begin with --image itself", group=SPEECH_GROUP
    )


def frames_of_clip(infer_frames: int | None, num_frames: int | None) -> int | None:
    """Frames that the latents of a clip make alone; None where both options are left open.

    Raises:
        RequestError: it is no multiple of 4, or --num-frames says something else.
    """
    if infer_frames is None:
        return num_frames
    if infer_frames % 4 or infer_frames < LEAST_FRAMES:
        below = max(LEAST_FRAMES, infer_frames // 4 * 4)
        raise RequestError(
            "infer_frames",
            f"{infer_frames}: must be a multiple of 4, from {LEAST_FRAMES} on, as the VAE packs 4 frames "
            f"into one. Nearest: {below} or {below + 4}.",
        )
    if num_frames not in (None, infer_frames - EXTRA_FRAMES):
        raise RequestError(
            "infer_frames",
            f"{infer_frames}: beside --num-frames {num_frames} it says another length. Give one.",
        )
    return infer_frames - EXTRA_FRAMES
