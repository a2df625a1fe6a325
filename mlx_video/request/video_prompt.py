"""A reference video as a prompt beside the text."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.kinds import VideoSource
from mlx_video.request.option import option

VIDEO_PROMPT_GROUP = "video as prompt"


@dataclass(frozen=True)
class VideoPromptOptions:
    """Options of Video-As-Prompt."""

    vap_video: VideoSource | None = option(
        None,
        help="video whose style, motion or effect a Video-As-Prompt model takes over; as many frames as the "
        "result has are picked from all of it at even distances",
        group=VIDEO_PROMPT_GROUP,
        metavar="PATH",
        input="whole video",
    )
    vap_prompt: str | None = option(
        None,
        help="what --vap-video shows",
        group=VIDEO_PROMPT_GROUP,
        input="text",
        only_with=("vap_video",),
    )
    negative_vap_prompt: str | None = option(
        None,
        help='what the negative pass says of --vap-video; `""` for nothing',
        group=VIDEO_PROMPT_GROUP,
        default_text="the negative prompt",
        input="text",
        only_with=("vap_video",),
    )
