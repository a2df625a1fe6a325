"""What Animate makes a video from besides a picture of the character."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.kinds import VideoSource
from mlx_video.request.option import option

ANIMATE_GROUP = "Animate"


@dataclass(frozen=True)
class AnimateOptions:
    """Videos that tell an Animate model what the character of --image does, and where."""

    animate_pose_video: VideoSource | None = option(
        None,
        help="skeletons, drawn as Wan's own preprocessing does, that the character of an Animate model "
        "follows; the video takes its size and length",
        group=ANIMATE_GROUP,
        metavar="PATH",
        input="video",
    )
    animate_face_video: VideoSource | None = option(
        None,
        help="face whose expression the character takes: cut out of the driving video, square, 512x512; as "
        "many frames as the poses",
        group=ANIMATE_GROUP,
        metavar="PATH",
        input="video",
    )
    animate_inpaint_video: VideoSource | None = option(
        None,
        help="video in which the character takes a person's place, black where that person is; without it "
        "the character moves before the background of its own picture",
        group=ANIMATE_GROUP,
        metavar="PATH",
        input="video",
    )
    animate_mask_video: VideoSource | None = option(
        None,
        help="white where the character is put into --animate-inpaint-video, black where that stays",
        group=ANIMATE_GROUP,
        metavar="PATH",
        input="mask",
    )
