"""What LongCat-Video goes on from."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.kinds import VideoSource
from mlx_video.request.option import option

LONGCAT_GROUP = "LongCat-Video"


@dataclass(frozen=True)
class LongCatOptions:
    """Options of LongCat-Video's continuation of a video."""

    longcat_video: VideoSource | None = option(
        None,
        help="video whose last 13 frames, at the model's 15 a second, a video of LongCat-Video begins with",
        group=LONGCAT_GROUP,
        metavar="PATH",
        input="tail",
    )
    longcat_refine: VideoSource | None = option(
        None,
        help="finished video of LongCat-Video that becomes one of 720p with twice the frames; needs the "
        "adapter that refines",
        group=LONGCAT_GROUP,
        metavar="PATH",
        input="all frames",
    )
    longcat_kv_cache: bool = option(
        True,
        help="compute the keys and values of given frames of `--longcat-video` once, for all steps; without, "
        "every step computes them anew, which takes less memory and guides a little differently",
        group=LONGCAT_GROUP,
        off_help="compute the keys and values of given frames in every step, which takes less memory",
    )
