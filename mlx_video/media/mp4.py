"""H.264 in MP4: frames are piped into ffmpeg as they arrive, settings become tags."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from mlx_video.errors import MediaError
from mlx_video.files.whole_file import held, publish, temporary_sibling
from mlx_video.media.embedded_settings import settings_to_text, text_to_settings, title_of
from mlx_video.media.ffmpeg import cannot_start, find_ffmpeg, format_tags, last_lines, read_tags, run_ffmpeg
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.sound import SOUND_INPUT, SoundTrack

# What imageio makes of quality 8, the official setting: int(51 · (1 - 8/10)).
CONSTANT_RATE_FACTOR = 10

# The pixels are converted with the BT.709 matrix to limited range, and the stream says so; without the tags
# players guess from the height and small videos get other colours.
_COLOUR_FILTER = (
    "scale=out_color_matrix=bt709:out_range=tv:flags=bicubic+accurate_rnd+full_chroma_inp,format=yuv420p,"
    "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
_COLOUR_TAGS = [
    "-color_range",
    "tv",
    "-colorspace",
    "bt709",
    "-color_primaries",
    "bt709",
    "-color_trc",
    "bt709",
]

# Source: Wan2.2 wan/utils/utils.py, merge_video_audio.
_AAC = ["-c:a", "aac", "-b:a", "192k"]

_PPM_HEADER = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s")


class Mp4Writer(FrameWriter):
    """Encodes while frames arrive; only the encoder's look-ahead is kept in memory.

    Args:
        path: final name.
        width: pixels, even (4:2:0 colour shares one sample between two pixels each way).
        height: pixels, even.
        fps: frames per second.
        metadata: the run's settings; tag "title" holds the prompt, "comment" all of them as JSON.
        sound: what is heard; None for nothing.

    Raises:
        MediaError: ffmpeg is missing or cannot be started.
        ValueError: odd size.

    Source: Wan2.1 wan/utils/utils.py, cache_video (libx264, quality 8).
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        fps: float,
        metadata: Mapping[str, str],
        sound: SoundTrack | None = None,
    ) -> None:
        super().__init__(width, height)
        if width % 2 or height % 2:
            raise ValueError(f"MP4 needs an even width and height, these frames are {width}x{height}.")
        self._path = path
        self._temporary = temporary_sibling(path, ".mp4")
        program = find_ffmpeg()
        tags = {"title": title_of(metadata), "comment": settings_to_text(metadata)}
        self._files = ExitStack()
        try:
            # A file, not an argument: a command line has a limit that long prompts can reach.
            self._tags = tempfile.NamedTemporaryFile(suffix=".txt")  # noqa: SIM115 (closed with the others)
            self._files.enter_context(self._tags)
            self._tags.write(format_tags(tags))
            self._tags.flush()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe would block once nobody reads it)
            self._files.enter_context(self._log)
            self._files.enter_context(held(self._temporary))
            self._process = self._start(program, fps, sound)
        except BaseException:
            self._remove_files()
            raise

    def _start(self, program: str, fps: float, sound: SoundTrack | None) -> subprocess.Popen[bytes]:
        command = [program, "-y", "-nostats", "-v", "warning"]
        command += ["-f", "ffmetadata", "-i", self._tags.name]
        command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{self.width}x{self.height}"]
        command += ["-r", str(Fraction(fps).limit_denominator(65536)), "-i", "-"]
        if sound is not None:
            command += [*SOUND_INPUT, "-i", str(sound.path.absolute()), "-map", "2:a:0", *_AAC]
            command += ["-af", f"apad=whole_dur={sound.seconds},atrim=end={sound.seconds}"]
        command += ["-map", "1:v", "-map_metadata", "0", "-vf", _COLOUR_FILTER, *_COLOUR_TAGS]
        command += ["-c:v", "libx264", "-crf", str(CONSTANT_RATE_FACTOR), "-movflags", "+faststart"]
        command += ["-f", "mp4", str(self._temporary.absolute())]
        try:
            # A session of its own: Ctrl-C reaches only us, and we decide that the file goes.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,
            )
        except OSError as error:
            raise cannot_start(program, error) from error

    def _append(self, frames: np.ndarray) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(frames.data)
        except OSError as error:
            self._close_pipe()
            raise self._failure() from error

    def _finish(self) -> None:
        self._close_pipe()
        if self._process.returncode or not self._temporary.stat().st_size:
            raise self._failure()
        publish(self._temporary, self._path)
        self._files.close()

    def _abandon(self) -> None:
        self._process.kill()
        self._close_pipe()
        self._remove_files()

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # frames that a dead ffmpeg no longer takes
            self._process.stdin.close()
        self._process.wait()

    def _remove_files(self) -> None:
        self._temporary.unlink(missing_ok=True)
        self._files.close()

    def _failure(self) -> MediaError:
        self._log.seek(0)
        return MediaError(
            f"{self._path}: ffmpeg stopped with exit code {self._process.returncode} "
            f"({last_lines(self._log.read())}). Check the free space, or write a .gif or .webp."
        )


def read_mp4_settings(path: Path) -> dict[str, str]:
    """Settings from the comment tag; empty for another program's file.

    Raises:
        MediaError: ffmpeg cannot read the file.
    """
    return text_to_settings(read_mp4_comment(path))


def read_mp4_comment(path: Path) -> str:
    """Comment tag; "" where there is none.

    Raises:
        MediaError: ffmpeg cannot read the file.
    """
    return read_tags(path).get("comment", "")


def read_mp4_frames(path: Path) -> np.ndarray:
    """Decode every frame.

    Returns:
        [F, H, W, 3], uint8.

    Raises:
        MediaError: ffmpeg cannot read the file.
    """
    source = str(path.absolute())
    # PPM: each frame says its size and carries plain bytes.
    stream = run_ffmpeg(
        "-v", "error", "-f", "mp4", "-i", source, "-map", "0:v:0", "-f", "image2pipe", "-c:v", "ppm", "pipe:1"
    )
    header = _PPM_HEADER.match(stream)
    if header is None:
        raise MediaError(f"{path}: holds no frames. Is the file complete?")
    width, height = int(header[1]), int(header[2])
    frames = np.frombuffer(stream, np.uint8).reshape(-1, len(header[0]) + height * width * 3)
    return frames[:, len(header[0]) :].reshape(-1, height, width, 3)
