"""Video files of any common kind, decoded by ffmpeg one frame at a time."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np

from mlx_video.errors import MediaError
from mlx_video.media.ffmpeg import cannot_start, find_ffmpeg, last_lines

# Containers that hold the video themselves. Others, playlists above all, name further files, which ffmpeg
# would open.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,ivf,h264,hevc"
_INPUT = ["-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS]
# V: covers and previews are no videos. PPM: each frame says its size, as it is once it is set upright.
_OUTPUT = ["-map", "0:V:0", "-f", "image2pipe", "-c:v", "ppm", "pipe:1"]
_SCALE = "scale=flags=bicubic+accurate_rnd+full_chroma_int,format=rgb24"

_STREAM = re.compile(r"^ *Stream #0:.*: Video: .*$", re.MULTILINE)
_RATE = re.compile(r", (\d+(?:\.\d+)?) fps")
_PPM_LINES = 3


def probe_frame_rate(path: Path, name: str) -> float | None:
    """Frames per second of a file's video; None where it does not tell.

    Args:
        path: the file.
        name: the file as the user calls it, for messages.

    Raises:
        MediaError: it holds no video that ffmpeg can read, or there is no ffmpeg.
    """
    command = [find_ffmpeg(), "-hide_banner", *_INPUT, "-i", str(path.absolute())]
    try:
        # It always fails, for want of an output, once it has said what there is.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise cannot_start(command[0], error) from error
    stream = _STREAM.search(done.stderr.decode("utf-8", "replace"))
    if stream is None:
        raise _unreadable(name, done.stderr)
    rate = _RATE.search(stream[0])
    return float(rate[1]) if rate else None


def read_video_file(path: Path, name: str, fps: float | None) -> Iterator[np.ndarray]:
    """Decode a video; only a frame or two are in memory.

    Where frames of the file last unequally, they are repeated or left out so that all last alike.

    Args:
        path, name: as for :func:`probe_frame_rate`.
        fps: of the file; None to take its frames as they come.

    Yields:
        uint8 RGB [H, W, 3], set upright where the file says how the camera was held.

    Raises:
        MediaError: as :func:`probe_frame_rate`; or decoding fails.
    """
    rate = [f"fps={Fraction(fps).limit_denominator(65536)}"] if fps else []
    options = ["-i", str(path.absolute()), "-vf", ",".join([*rate, _SCALE]), *_OUTPUT]
    with _running([find_ffmpeg(), "-v", "error", "-nostdin", *_INPUT, *options], name) as stream:
        count = 0
        while (frame := _read_frame(stream)) is not None:
            yield frame
            count += 1
    if not count:
        raise _unreadable(name, b"it holds no frames")


@contextmanager
def _running(command: list[str], name: str) -> Iterator[IO[bytes]]:
    """What ffmpeg writes; it is ended with the context, and its failure raised where that came first."""
    with tempfile.TemporaryFile() as log:  # a pipe would block once nobody reads it
        try:
            # A session of its own: Ctrl-C reaches only us.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        except OSError as error:
            raise cannot_start(command[0], error) from error
        assert process.stdout is not None
        try:
            yield process.stdout
            failed = process.wait() != 0
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        if failed:
            log.seek(0)
            raise _unreadable(name, log.read())


def _read_frame(stream: IO[bytes]) -> np.ndarray | None:
    """The next frame; None at the end, and for one that is cut off."""
    header = [stream.readline() for _ in range(_PPM_LINES)]
    if not header[-1]:
        return None
    width, height = map(int, header[1].split())
    data = stream.read(height * width * 3)
    if len(data) < height * width * 3:
        return None
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _unreadable(name: str, log: bytes) -> MediaError:
    return MediaError(
        f"{name}: no video that ffmpeg can read ({last_lines(log, 1)}). Is the file complete? Use an MP4, "
        "MOV, MKV, WebM or AVI, or a folder of pictures."
    )
