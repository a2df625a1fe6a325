"""Pictures come in: any file, Pillow image or array becomes 8-bit RGB, upright and without transparency."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlx_video.addresses import AddressError, local_path
from mlx_video.errors import MediaError, MLXVideoError
from mlx_video.events import Notice
from mlx_video.files.unusable_paths import describe_apple_double, explain_missing, is_apple_double
from mlx_video.media.picture_kind import PICTURE_FORMATS, READABLE, describe_unreadable, open_picture

if TYPE_CHECKING:
    from PIL import Image

    from mlx_video.request import ImageSource

# How Pillow calls one-channel pictures of more than 8 bits.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
# File types whose further pictures are moments or pages; those of an MPO are by-products of a camera.
_SERIES = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")


@dataclass(frozen=True, slots=True, eq=False)
class OpenedImage:
    """A picture ready for use.

    Attributes:
        pixels: uint8 RGB [H, W, 3].
        notices: what was decided for the user: one picture of several, a colour behind transparent parts.
    """

    pixels: np.ndarray
    notices: tuple[Notice, ...] = ()


def open_image(source: ImageSource | str) -> OpenedImage:
    """Read a picture as the user sees it in a viewer.

    Opaque pictures of 8 bits give exactly what Pillow's `convert("RGB")` gives, as in the official code.
    Photos that say how the camera was held are set upright. Transparent parts become white, as on a page:
    dropping the alpha channel, as the official code does, would show whatever colours happen to be stored
    there. Of an animation in a file, the first picture counts. More than 8 bits are scaled, not cut off.

    Args:
        source: a file or its address; or a Pillow image; or an array [H, W] or [H, W, 1, 3 or 4], uint8,
            uint16, or floating in [0, 1].

    Returns:
        The pixels, and what to tell the user.

    Raises:
        MediaError: the file is missing, damaged, too large or of an unknown kind, or the values have no known
            scale.
    """
    name = name_image(source)
    with _failures_named(name):
        if isinstance(source, np.ndarray):
            return _convert(_from_array(source, name), name)
        if not isinstance(source, str | Path):
            _refuse_unread(source, name)
            return _convert(source, name)
        return _open_file(_local_path(source), name)


def _local_path(source: str | Path) -> Path:
    try:
        return local_path(source)
    except AddressError as error:
        raise MediaError(str(error)) from error


def _open_file(path: Path, name: str) -> OpenedImage:
    from PIL import UnidentifiedImageError

    if not path.is_file():
        what = "is a folder, not a picture" if path.is_dir() else "no such file"
        raise MediaError(f"{name}: {explain_missing(path, f'{what}. Check the path.')}")
    if is_apple_double(path):
        raise MediaError(f"{name}: {describe_apple_double(path)}")
    try:
        with open_picture(path) as picture:
            opened = _convert(picture, name)
            is_series = picture.format in _SERIES and getattr(picture, "is_animated", False)
    except UnidentifiedImageError as error:
        raise MediaError(f"{name}: {describe_unreadable(path)}") from error
    if is_series:
        notice = Notice(f"{name} holds several pictures; the first one is used.")
        return replace(opened, notices=(notice, *opened.notices))
    return opened


def name_image(source: ImageSource | str) -> str:
    """What messages and the record of a run call a picture: its path, or what it is."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, np.ndarray):
        return f"array {source.dtype} {list(source.shape)}"
    return str(getattr(source, "filename", "")) or f"picture {source.mode} {source.width}x{source.height}"


@contextmanager
def _failures_named(name: str) -> Iterator[None]:
    """Turn what Pillow raises into errors that name the picture."""
    from PIL.Image import DecompressionBombError

    try:
        with warnings.catch_warnings():
            # Of damaged tags, which do no harm here, and of photos above half of Pillow's size limit.
            warnings.simplefilter("ignore")
            yield
    except MLXVideoError:
        raise
    except (DecompressionBombError, MemoryError) as error:
        raise MediaError(f"{name}: too large to open ({error}). Shrink the picture first.") from error
    except Exception as error:  # decoders raise almost anything over damaged data
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{name}: cannot be read ({reason}). Is the file complete? {READABLE}") from error


def _refuse_unread(picture: Image.Image, name: str) -> None:
    """Refuse a picture whose pixels Pillow has yet to read from a file of a kind that we do not open."""
    kind = getattr(picture, "format", None)
    if kind is not None and kind not in PICTURE_FORMATS and getattr(picture, "tile", None):
        raise MediaError(
            f"{name}: its kind, {kind}, is not read. Call its load() first, or use a PNG or JPEG."
        )


def _convert(picture: Image.Image, name: str) -> OpenedImage:
    upright = _set_upright(picture)
    if upright.mode in _DEEP_MODES:
        upright = _to_eight_bits(upright, name)
    if not upright.has_transparency_data:
        return OpenedImage(np.asarray(upright.convert("RGB")))
    pixels, is_opaque = _put_on_white(upright)
    notice = Notice(f"{name} is transparent in places; they become white.")
    return OpenedImage(pixels, () if is_opaque else (notice,))


def _set_upright(picture: Image.Image) -> Image.Image:
    from PIL import ImageOps

    picture.load()  # so that what fails below is the tags' fault, not the pixels'
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged tags can raise almost anything, and say nothing of how the camera was held
        return picture


def _put_on_white(picture: Image.Image) -> tuple[np.ndarray, bool]:
    from PIL import Image

    layers = picture.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        return np.asarray(layers.convert("RGB")), True
    page = Image.new("RGBA", layers.size, "white")
    return np.asarray(Image.alpha_composite(page, layers).convert("RGB")), False


def _to_eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """A grey picture of 16 or 32 bits in 8; Pillow's own conversion would cut values off at 255."""
    from PIL import Image

    values = np.asarray(picture)
    is_floating = values.dtype.kind == "f"
    top = 1.0 if is_floating else 65535.0
    if not (values.size and values.min() >= 0 and values.max() <= top):
        raise MediaError(
            f"{name}: grey values from {values.min():g} to {values.max():g}, expected 0 to {top:g}. "
            "Save it with 8 or 16 bits a channel."
        )
    return Image.fromarray(_scale(values, top))


def _from_array(values: np.ndarray, name: str) -> Image.Image:
    from PIL import Image

    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    has_form = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
    if not has_form or not values.size:
        raise MediaError(f"{name}: no picture. Give [H, W] or [H, W, C] with 1, 3 or 4 channels.")
    if values.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(values))
    if values.dtype == np.uint16:
        return Image.fromarray(_scale(values, 65535.0))
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise MediaError(f"{name}: values have no known scale. Give uint8, uint16, or floats from 0 to 1.")
    return Image.fromarray(_scale(values, 1.0))


def _scale(values: np.ndarray, top: float) -> np.ndarray:
    """Map 0…top to 0…255, rounded."""
    return np.rint(values * (255 / top)).astype(np.uint8)
