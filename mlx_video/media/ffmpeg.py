"""The ffmpeg program: where it is, whether it can do H.264, and its own text format for tags."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mlx_video.errors import MediaError

_HEADER = ";FFMETADATA1\n"
_TO_ESCAPE = re.compile(r"[=;#\\\n]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ENTRY = re.compile(r"((?:\\.|[^\\=\n])*)=((?:\\.|[^\\\n])*)(?:\n|\Z)", re.DOTALL)


def find_ffmpeg() -> str:
    """Path of the ffmpeg program that imageio-ffmpeg brings or finds.

    Raises:
        MediaError: the package or the program is missing.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MediaError(
            f"MP4 files need the ffmpeg program and none was found ({error}). "
            "Run: pip install imageio-ffmpeg. Or write a .gif or .webp."
        ) from error


def check_h264() -> None:
    """Make sure that ffmpeg can be started and has the libx264 encoder.

    Raises:
        MediaError: it cannot or has not.
    """
    answer = run_ffmpeg("-hide_banner", "-h", "encoder=libx264")
    if b"Encoder libx264" not in answer:
        raise MediaError(
            f"{find_ffmpeg()}: this ffmpeg was built without the H.264 encoder libx264. "
            "Unset IMAGEIO_FFMPEG_EXE to use the one that imageio-ffmpeg brings, or write a .gif or .webp."
        )


def run_ffmpeg(*arguments: str) -> bytes:
    """Run ffmpeg to its end and return what it wrote to stdout.

    Raises:
        MediaError: it failed; the message carries the last lines it said.
    """
    program = find_ffmpeg()
    try:
        done = subprocess.run(
            [program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise cannot_start(program, error) from error
    if done.returncode:
        raise MediaError(f"ffmpeg failed with exit code {done.returncode}: {last_lines(done.stderr)}")
    return done.stdout


def cannot_start(program: str, error: OSError) -> MediaError:
    """The error for a program that the system refuses to run."""
    return MediaError(
        f"{program}: cannot be started ({error.strerror or error}). Reinstall imageio-ffmpeg, or correct "
        "IMAGEIO_FFMPEG_EXE if it is set."
    )


def last_lines(log: bytes, count: int = 3) -> str:
    """The end of ffmpeg's log as one line."""
    lines = log.decode("utf-8", "replace").strip().splitlines()[-count:]
    return " / ".join(line.strip() for line in lines) or "it gave no reason"


def format_tags(tags: Mapping[str, str]) -> bytes:
    """Write tags as an ffmetadata file.

    Two things that ffmpeg's reader of this format mistakes are changed: carriage returns become line feeds,
    and a backslash at the end of a value gets a space behind it.

    Args:
        tags: any text without zero characters and half surrogates.
    """
    lines = [f"{_escape(key)}={_escape(_readable(value))}\n" for key, value in tags.items()]
    return (_HEADER + "".join(lines)).encode("utf-8")


def read_tags(path: Path) -> dict[str, str]:
    """Read the tags of an MP4 file as a whole (not those of its streams), keys as ffmpeg names them.

    Nothing else is read: of a playlist called .mp4 ffmpeg would open the files that it names.

    Raises:
        MediaError: ffmpeg cannot read the file.
    """
    source = str(path.absolute())
    text = run_ffmpeg("-v", "error", "-f", "mp4", "-i", source, "-f", "ffmetadata", "-").decode(
        "utf-8", "replace"
    )
    tags, position = {}, len(_HEADER)
    # Sections of streams start with "[", which is no entry, so they end the loop.
    while entry := _ENTRY.match(text, position):
        tags[_ESCAPED.sub(r"\1", entry[1])] = _ESCAPED.sub(r"\1", entry[2])
        position = entry.end()
    return tags


def _escape(text: str) -> str:
    return _TO_ESCAPE.sub(lambda found: "\\" + found[0], text)


def _readable(value: str) -> str:
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    return value + " " if value.endswith("\\") else value
