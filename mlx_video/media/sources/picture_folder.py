"""A folder of pictures as the frames of a video."""

from __future__ import annotations

import re
from pathlib import Path

from mlx_video.files.unusable_paths import has_apple_double_name

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif")
)
"""Suffixes by which a file of a folder counts as a picture; other files are passed over."""

_NUMBER = re.compile(r"(\d+)")


def list_pictures(folder: Path) -> list[Path]:
    """Pictures of a folder by name, numbers in names by value: `2.png` before `10.png`."""
    pictures = [path for path in folder.iterdir() if _is_picture(path)]
    return sorted(pictures, key=lambda path: (_natural(path.name), path.name))


def _is_picture(path: Path) -> bool:
    is_hidden = path.name.startswith(".") or has_apple_double_name(path)
    return path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file()


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Parts of a name that compare as texts or, where they are digits, as numbers."""
    parts = _NUMBER.split(name.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
