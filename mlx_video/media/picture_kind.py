"""Which picture files are opened, and what the others are by their content."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_video.errors import MediaError
from mlx_video.limits import MOST_PIXELS

if TYPE_CHECKING:
    from PIL import Image

# As Pillow calls them. No others: for an EPS it would start whatever program is called `gs`. HEIF is there
# for those who have installed a plugin that reads it.
PICTURE_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "HEIF")
READABLE = "Use a PNG, JPEG, WebP, TIFF, BMP or GIF."

# "Brands" of the container that AVIF, HEIC and MP4 share. Source: ISO/IEC 23008-12 (HEIF),
# annex B, and AV1 Image File Format, section 6.
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_STARTS = (
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an SVG drawing or another XML text"),
    (b"\x1a\x45\xdf\xa3", "a Matroska or WebM video"),
)
_PICTURE_STARTS = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF"),
    (b"RIFF", "a WebP, AVI or WAV file"),
)
_START_BYTES = 4096


_TOO_LARGE = f"too large to open, more than {MOST_PIXELS:,} pixels"


def open_picture(path: Path) -> Image.Image:
    """Open a picture file of one of the kinds in `PICTURE_FORMATS`; no other program is started.

    Raises:
        PIL.UnidentifiedImageError: it is of another kind, or its beginning is damaged.
        OSError: it cannot be read.
        MediaError: it has more pixels than are read.
    """
    from PIL import Image

    Image.init()  # a Pillow without one of these kinds does not know its name
    try:
        picture = Image.open(path, formats=[name for name in PICTURE_FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: {_TOO_LARGE} ({error}). Shrink the picture first.") from error
    if picture.width * picture.height > MOST_PIXELS:
        picture.close()
        size = f"{picture.width}x{picture.height}"
        raise MediaError(f"{path}: {_TOO_LARGE} ({size}). Shrink the picture first.")
    return picture


def describe_unreadable(path: Path) -> str:
    """What a file is that `open_picture` did not take, and how to get a picture from it."""
    match name_media(path):
        case "an AVIF picture":
            return _describe_avif(path)
        case "a HEIC picture":
            return f"is a HEIC picture, which cannot be read. {_export(path)}"
        case "a video":
            return "is a video, not a picture. Save one frame of it as PNG or JPEG."
        case what if what in dict(_STARTS).values():
            return f"is {what}, which is not read. Export it as PNG or JPEG."
    return f"no picture of a known kind, or its beginning is damaged. {READABLE}"


def name_media(path: Path) -> str:
    """What a file is by its first bytes, "a video" for example; "" for what is no picture, video or page."""
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    brands = set(_read_brands(start))
    if brands & _AVIF_BRANDS:
        return "an AVIF picture"
    if brands:
        return "a HEIC picture" if brands & _HEIC_BRANDS else "a video"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    return next((what for magic, what in (*_PICTURE_STARTS, *_STARTS) if text.startswith(magic)), "")


def _read_brands(start: bytes) -> Iterator[bytes]:
    """Brands in the first box of a file; none where that is no box of this kind.

    Source: ISO/IEC 14496-12, FileTypeBox: major brand, its version, compatible brands.
    """
    if start[4:8] == b"ftyp":
        end = int.from_bytes(start[:4], "big")
        yield start[8:12]
        yield from (start[at : at + 4] for at in range(16, min(end, len(start)), 4))


def _describe_avif(path: Path) -> str:
    from PIL import features

    if "avif" in features.get_supported_modules():
        return f"is an AVIF picture, but damaged. {READABLE}"
    return (
        "is an AVIF picture, which this Pillow cannot read. Install Pillow 11.3 or newer "
        f"(pip install -U pillow). Or: {_export(path)}"
    )


def _export(path: Path) -> str:
    target = path.with_suffix(".png")
    if target == path:
        target = path.with_name(f"{path.stem}-copy.png")
    command = shlex.join(["sips", "-s", "format", "png", str(path), "--out", str(target)])
    return f"Export it as PNG, on a Mac with Preview or with `{command}`."
