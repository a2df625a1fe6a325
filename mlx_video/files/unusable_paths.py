"""Paths that lead to nothing of use: links whose target is not there, and the AppleDouble files of macOS."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# What an AppleDouble file begins with, whatever it stands beside.
# Source: RFC 1740, "AppleDouble header file", magic number.
APPLE_DOUBLE_START = bytes.fromhex("00051607")
_APPLE_DOUBLE_PREFIX = "._"


def is_dangling(path: Path) -> bool:
    """Whether a path is a link, or lies behind one, whose target is not there."""
    return _find_dangling(path) is not None


def real_path(path: Path) -> Path:
    """Where a path leads, all links followed; of links in a circle the path itself, which leads nowhere."""
    return Path(os.path.realpath(path))


def explain_missing(path: Path, otherwise: str) -> str:
    """Say why there is nothing at a path.

    Args:
        path: where nothing was found.
        otherwise: what to say where no link is to blame, with its advice.

    Returns:
        Whole sentences, the first without its subject, which is the path.
    """
    link = _find_dangling(path)
    if link is None:
        return otherwise
    place = "is" if link == path else f"lies behind {link},"
    if _is_circle(link):
        return f"{place} a link to {os.readlink(link)}, which leads back to it. Put the file in its place."
    return (
        f"{place} a link to {os.readlink(link)}, which is not there. Mount the disk that it lies on, or "
        "download the file again."
    )


def is_apple_double(path: Path) -> bool:
    """Whether an existing file is an AppleDouble file, by its content."""
    with path.open("rb") as file:
        return file.read(len(APPLE_DOUBLE_START)) == APPLE_DOUBLE_START


def has_apple_double_name(path: Path) -> bool:
    """Whether a file is called as macOS calls the AppleDouble files that it leaves on other disks."""
    return path.name.startswith(_APPLE_DOUBLE_PREFIX)


def describe_apple_double(path: Path) -> str:
    """Say what such a file is and which file to give; the subject, its path, is left out."""
    owner = path.name.removeprefix(_APPLE_DOUBLE_PREFIX)
    advice = (
        f"Give {owner} beside it." if has_apple_double_name(path) else "Give the file that it belongs to."
    )
    return f"is an AppleDouble file of macOS, which holds labels and no content of its own. {advice}"


def _is_circle(link: Path) -> bool:
    try:
        os.path.realpath(link, strict=True)
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _find_dangling(path: Path) -> Path | None:
    """The link to blame, the outermost first; a circle of links leads nowhere either."""
    places = (*reversed(path.parents), path)
    return next((place for place in places if place.is_symlink() and not place.exists()), None)
