"""The texts that programs leave inside pictures and videos: comments, tags, chunks, EXIF fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_video.errors import MediaError
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.media.animation import read_animation_comment
from mlx_video.media.ffmpeg import read_tags
from mlx_video.media.picture_kind import open_picture

_VIDEOS = (".mp4", ".mov", ".m4v")
# Where ComfyUI (Make, Model), Wan2GP (UserComment) and others (ImageDescription) put JSON.
_EXIF_TEXTS = (0x010E, 0x010F, 0x0110)
_EXIF_FOLDER, _USER_COMMENT = 0x8769, 0x9286
_CODE_BYTES = 8  # with which a UserComment says how its text is spelt


def read_objects(path: Path) -> dict[str, Any]:
    """The JSON objects in a picture or video, by the name of the text that holds each.

    Args:
        path: a picture that Pillow reads, an MP4, or a JSON file, whose object is called "".

    Returns:
        Name of the chunk, tag or field → object; a text of the form `name:{…}` is called by its own name.

    Raises:
        MediaError: the file is missing or cannot be read.
    """
    if not path.is_file():
        raise MediaError(f"{path}: {explain_missing(path, 'no such file. Check the path.')}")
    found: dict[str, Any] = {}
    for name, text in _read_texts(path):
        before, brace, _ = text.partition("{")
        label = before.strip().rstrip(":") if brace and before.strip().endswith(":") else name
        with suppress(ValueError, RecursionError):
            value = json.loads(text[len(before) :] if brace else text)
            if isinstance(value, dict):
                found[label] = value
    return found


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        yield "", path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff")
    elif suffix in _VIDEOS:
        yield from read_tags(path).items()
    else:
        yield from _read_picture(path)


def _read_picture(path: Path) -> Iterator[tuple[str, str]]:
    yield "comment", read_animation_comment(path)
    with open_picture(path) as picture:
        yield from ((str(name), text) for name, text in picture.info.items() if isinstance(text, str))
        fields = picture.getexif()
        yield from ((str(tag), str(fields[tag])) for tag in _EXIF_TEXTS if tag in fields)
        comment = fields.get_ifd(_EXIF_FOLDER).get(_USER_COMMENT)
    if isinstance(comment, bytes):
        code, text = comment[:_CODE_BYTES], comment[_CODE_BYTES:]
        yield "UserComment", text.decode("utf-16-be" if code.startswith(b"UNICODE") else "utf-8", "replace")
    elif comment:
        yield "UserComment", str(comment)
