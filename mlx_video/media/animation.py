"""Animated GIF and WebP, for places that show pictures but play no video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, unescape

import numpy as np

from mlx_video.errors import MediaError
from mlx_video.files.whole_file import written_whole
from mlx_video.media.embedded_settings import settings_to_text, text_to_settings
from mlx_video.media.frame_writer import FrameWriter
from mlx_video.media.picture_kind import open_picture

if TYPE_CHECKING:
    from PIL import Image

# GIF counts time in hundredths of a second, WebP in thousandths.
_CLOCK_MS = {".gif": 10, ".webp": 1}
_WEBP_QUALITY = 90
# File types whose further pictures are moments.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_UNSTATED_MS = 100
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>'
    '<rdf:li xml:lang="x-default">{}</rdf:li></rdf:Alt></dc:description>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_XMP_TEXT = re.compile(r'<rdf:li xml:lang="x-default">(.*?)</rdf:li>', re.DOTALL)


class AnimationWriter(FrameWriter):
    """Collects the frames and writes them at the end, because both formats need all of them at once.

    A GIF holds 256 colours a frame. Both formats store equal neighbours as one picture shown for longer, so
    a file may count fewer pictures than frames were written; it plays for the same time. Settings go
    into the comment of a GIF and into dc:description of a WebP's XMP, as JSON.

    Args:
        path: final name; its suffix, .gif or .webp, says the format.
        width: pixels.
        height: pixels.
        fps: frames per second.
        metadata: the run's settings.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float, metadata: Mapping[str, str]) -> None:
        super().__init__(width, height)
        self._path = path
        self._suffix = path.suffix.lower()
        self._fps = fps
        self._settings = settings_to_text(metadata)
        self._pictures: list[Image.Image] = []

    def _append(self, frames: np.ndarray) -> None:
        from PIL import Image

        for frame in frames:
            picture = Image.fromarray(frame)
            # Reduced at once: a third of the memory, and each frame gets the palette that suits it.
            self._pictures.append(picture.quantize(256) if self._suffix == ".gif" else picture)

    def _finish(self) -> None:
        first, *rest = self._pictures
        durations = frame_durations_ms(len(self._pictures), self._fps, _CLOCK_MS[self._suffix])
        with written_whole(self._path, self._suffix) as temporary:
            first.save(
                temporary,
                save_all=True,
                append_images=rest,
                duration=durations,
                loop=0,
                **self._format_options(),
            )
        self._pictures.clear()

    def _format_options(self) -> dict[str, Any]:
        if self._suffix == ".gif":
            return {"comment": self._settings.encode("utf-8")}
        return {
            "xmp": _XMP.format(escape(self._settings)).encode("utf-8"),
            "quality": _WEBP_QUALITY,
            "method": 4,
        }

    def _abandon(self) -> None:
        self._pictures.clear()


def frame_durations_ms(count: int, fps: float, clock_ms: int) -> list[int]:
    """How long each frame is shown, in whole ticks of the format's clock, without drifting from `fps`."""
    edges = [round(index * 1000 / (fps * clock_ms)) * clock_ms for index in range(count + 1)]
    return [end - start for start, end in pairwise(edges)]


def read_animation_settings(path: Path) -> dict[str, str]:
    """Settings from the comment of a picture; empty for another program's file.

    Raises:
        MediaError: no picture that Pillow can read.
    """
    return text_to_settings(read_animation_comment(path))


def read_animation_comment(path: Path) -> str:
    """Comment of a GIF, JPEG or PNG, or description in a WebP's XMP; "" where there is none.

    Raises:
        MediaError: no picture that Pillow can read.
    """
    with _open(path) as picture:
        if text := picture.info.get("Comment"):  # a PNG's; the others keep bytes
            return str(text)
        comment: bytes = picture.info.get("comment", b"")
        if found := _XMP_TEXT.search(picture.info.get("xmp", b"").decode("utf-8", "replace")):
            return unescape(found[1])
        return comment.decode("utf-8", "replace")


def read_animation_frames(path: Path) -> np.ndarray:
    """Decode every stored picture; equal neighbours count once.

    Returns:
        [F, H, W, 3], uint8.

    Raises:
        MediaError: no picture that Pillow can read.
    """
    from PIL import ImageSequence

    with _open(path) as picture:
        return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])


def count_pictures(path: Path) -> int:
    """How many pictures a file holds that are moments of an animation; 0 for what is no picture.

    Pages of a TIFF and by-products of a camera do not count: of these the first is the picture.
    """
    try:
        with open_picture(path) as picture:
            count = getattr(picture, "n_frames", 1)
            return count if picture.format in _ANIMATED else 1
    except OSError:
        return 0


def read_timed_pictures(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """Decode an animation picture by picture.

    Yields:
        A picture, valid until the next is taken, and the milliseconds that it is shown.

    Raises:
        MediaError: no animation that Pillow can read.
    """
    from PIL import ImageSequence

    with _open(path) as animation:
        try:
            for picture in ImageSequence.Iterator(animation):
                picture.load()
                # As browsers do where a file states no time.
                yield picture, round(picture.info.get("duration", 0)) or _UNSTATED_MS
        except (OSError, SyntaxError, ValueError) as error:
            raise MediaError(f"{path}: cannot be read ({error}). Is the file complete?") from error


def _open(path: Path) -> Image.Image:
    try:
        return open_picture(path)
    except OSError as error:
        raise MediaError(
            f"{path}: no picture that Pillow can read ({error}). Is the file complete?"
        ) from error
