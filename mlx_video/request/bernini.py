"""What Bernini-R edits, and what is to appear."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.kinds import Pictures, VideoSource
from mlx_video.request.option import option

BERNINI_GROUP = "Bernini-R"


@dataclass(frozen=True)
class BerniniOptions:
    """Options of Bernini-R."""

    bernini_video: VideoSource | None = option(
        None,
        help="video that Bernini-R edits as the prompt says, or a picture at `--num-frames 1`; the result "
        "has its shape unless --width or --height is given",
        group=BERNINI_GROUP,
        metavar="PATH",
        input="footage",
    )
    bernini_reference_image: Pictures = option(
        (),
        help="picture of what is to appear in the video of Bernini-R; the prompt calls the first one image0",
        group=BERNINI_GROUP,
        input="pictures",
    )
