"""Video and picture files: one door for every format, chosen by the name's suffix."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlx_video.errors import MediaError, RequestError
from mlx_video.files.unusable_paths import describe_apple_double, explain_missing, is_apple_double
from mlx_video.files.whole_file import check_file, check_folder
from mlx_video.media.animation import AnimationWriter, read_animation_frames, read_animation_settings
from mlx_video.media.ffmpeg import check_h264
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.image import STILL_SUFFIXES, StillWriter, check_still
from mlx_video.media.mp4 import Mp4Writer, read_mp4_frames, read_mp4_settings
from mlx_video.media.sound import SoundTrack

SUFFIXES = (".mp4", ".gif", ".webp", *STILL_SUFFIXES)


def check_output(path: Path, num_frames: int) -> None:
    """Make sure, before hours of work, that a video can be written to `path`; creates its folder.

    Args:
        path: final name.
        num_frames: frames that will be written.

    Raises:
        MediaError: the folder takes no files, `path` is a folder, or MP4 is asked for and ffmpeg is missing.
        RequestError: no supported suffix, or one of a still image for more than one frame.
    """
    suffix = _supported_suffix(path)
    if suffix in STILL_SUFFIXES:
        check_still(path, num_frames)
    check_file(path)
    if suffix == ".mp4":
        check_h264()


def open_video_writer(
    path: Path,
    width: int,
    height: int,
    fps: float,
    metadata: Mapping[str, str],
    sound: SoundTrack | None = None,
) -> FrameWriter:
    """Open a video file that takes frames as they are decoded.

    `.mp4` is encoded on the way (H.264, yuv420p, index in front); `.gif` and `.webp` keep all frames in
    memory until `close`; `.png`, `.jpg` and `.jpeg` take one frame. The file appears under its name when
    `close` succeeds; until then an earlier one stays.

    Args:
        path: final name; its folder is created.
        width: pixels; even for MP4.
        height: pixels; even for MP4.
        fps: frames per second.
        metadata: the run's settings, stored in the file; "prompt" becomes the title of an MP4.
        sound: what is heard in an MP4; other formats have no sound.

    Returns:
        A writer, best used as a context manager; that of a still image refuses a second frame (RequestError).

    Raises:
        MediaError: the folder takes no files, or ffmpeg cannot be started.
        RequestError: no supported suffix.
        ValueError: fps or size is not positive, or the size is odd for MP4.
    """
    suffix = _supported_suffix(path)
    if not (math.isfinite(fps) and fps > 0 and width > 0 and height > 0):
        raise ValueError(f"{width}x{height} at {fps} fps: all three must be positive.")
    check_folder(path.parent)
    if suffix in STILL_SUFFIXES:
        return StillWriter(path, width, height, metadata)
    if suffix == ".mp4":
        return Mp4Writer(path, width, height, fps, metadata, sound)
    return AnimationWriter(path, width, height, fps, metadata)


def read_video_metadata(path: Path) -> dict[str, str]:
    """Read back the settings that `open_video_writer` stored.

    Returns:
        The settings; empty for a file that another program made.

    Raises:
        MediaError: the file is missing or damaged.
        RequestError: no supported suffix.
    """
    is_mp4 = _existing_suffix(path) == ".mp4"
    return read_mp4_settings(path) if is_mp4 else read_animation_settings(path)


def read_frames(path: Path) -> np.ndarray:
    """Decode a whole video, or a still image as one frame.

    Returns:
        [F, H, W, 3], uint8 RGB.

    Raises:
        MediaError: the file is missing or damaged.
        RequestError: no supported suffix.
    """
    is_mp4 = _existing_suffix(path) == ".mp4"
    return read_mp4_frames(path) if is_mp4 else read_animation_frames(path)


def _supported_suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        what = f"{suffix} is no format that can be written" if suffix else "the name has no suffix"
        raise RequestError(
            "output_path", f"{path}: {what}. Use .mp4, .gif or .webp; for one frame also .png or .jpg."
        )
    return suffix


def _existing_suffix(path: Path) -> str:
    if not path.is_file():
        raise MediaError(f"{path}: {explain_missing(path, 'no such file. Check the path.')}")
    if is_apple_double(path):
        raise MediaError(f"{path}: {describe_apple_double(path)}")
    return _supported_suffix(path)
