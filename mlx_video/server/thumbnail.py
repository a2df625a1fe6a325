"""A small picture of a finished video, made when it is first asked for."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mlx_video.files.whole_file import written_whole
from mlx_video.media.preview_file import encode_png, fit_frames
from mlx_video.media.sources.video_file import read_video_file

THUMBNAIL = "thumbnail.png"


def make_thumbnail(video: Path) -> Path:
    """The picture of a video's first frame, in a file beside it.

    Raises:
        MediaError: the video cannot be read, or the picture cannot be written.
    """
    path = video.with_name(THUMBNAIL)
    if not path.is_file():
        with closing(read_video_file(video, video.name, None)) as frames:  # type: ignore[type-var]
            first = next(frames)
        with written_whole(path) as temporary:
            temporary.write_bytes(encode_png(fit_frames(first[None])[0]))
    return path
