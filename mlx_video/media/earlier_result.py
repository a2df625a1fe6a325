"""Whether a file that has a result's name is an earlier result, or somebody else's that must stay."""

from __future__ import annotations

import warnings
from pathlib import Path

from mlx_video.errors import MediaError
from mlx_video.media.animation import read_animation_comment
from mlx_video.media.embedded_settings import is_own_text
from mlx_video.media.ffmpeg import find_ffmpeg
from mlx_video.media.mp4 import read_mp4_comment

FOREIGN = "is there already, and was not made by mlx-video. Move it away, or choose another name."
"""What to tell of a file that a result does not replace."""


def is_vacant(path: Path) -> bool:
    """Whether nothing lies under a name, or an empty file, as programs make them to reserve a name."""
    if path.is_symlink() and not path.exists():
        return False
    return not path.exists() or (path.is_file() and not path.stat().st_size)


def is_replaceable(path: Path) -> bool:
    """Whether a video or picture may be written under a name: it is vacant, or an earlier result has it.

    An earlier result is told by the settings in it, which a file that was edited since has often lost.

    Raises:
        MediaError: the name ends in .mp4, and ffmpeg is missing.
    """
    if is_vacant(path):
        return True
    if not path.is_file():
        return False
    if is_mp4 := path.suffix.lower() == ".mp4":
        find_ffmpeg()  # its absence says nothing of the file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return is_own_text(read_mp4_comment(path) if is_mp4 else read_animation_comment(path))
    except Exception:  # decoders raise almost anything over what is no file of ours
        return False


def check_replaceable(path: Path) -> None:
    """Refuse to write a video or picture over a file that is no earlier result.

    Raises:
        MediaError: it is somebody else's.
    """
    if not is_replaceable(path):
        raise MediaError(f"{path}: {FOREIGN}")
