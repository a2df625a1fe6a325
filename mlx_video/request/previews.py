"""What shows a video while it grows, and the decoder that makes its frames at the end."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_video.request.choices import DecoderName
from mlx_video.request.kinds import Preview
from mlx_video.request.option import at_least, option

PREVIEW_GROUP = "previews and the tiny decoder"


@dataclass(frozen=True)
class PreviewOptions:
    """Options of previews, and of the tiny decoder that makes them or the video."""

    preview: Preview | None = option(
        None,
        help="show what the video would be after each step: a `.png` or `.jpg` of four frames, or a moving "
        "`.webp` or `.gif`, rewritten each time; or `terminal`, for Kitty, Ghostty, WezTerm, iTerm2 and "
        "Konsole; `off`: none",
        group=PREVIEW_GROUP,
        metavar="FILE",
        default_text="off",
        affects="run",
    )
    preview_every: int = option(
        1,
        help="show a preview after every N steps, and after the last",
        group=PREVIEW_GROUP,
        metavar="N",
        check=at_least(1),
        affects="run",
    )
    decoder: DecoderName = option(
        "vae",
        help="what makes the frames: `vae`; or `tiny`, the decoder of --tiny-vae, at 1/25 of the work or "
        "less and with less detail",
        group=PREVIEW_GROUP,
        affects="video",
        decodes=True,
    )
