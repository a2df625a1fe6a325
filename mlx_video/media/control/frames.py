"""Frames that tell a control model what to do, made from ordinary ones without any network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_video.errors import RequestError
from mlx_video.media.control.canny import WHITE, canny_edges
from mlx_video.media.fit import fit_mask

GREY = 128
"""Brightness of what is to be made, as VACE and the Fun models take it."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Canny edges; see :func:`canny_edges`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise RequestError("low", f"{self.low:g}: must be from 0 to --high, which is {self.high:g}.")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → edges of the same size."""
        return canny_edges(pixels, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Blur:
    """Gaussian blur of a radius in pixels."""

    radius: float

    def __post_init__(self) -> None:
        if not self.radius > 0:
            raise RequestError("radius", f"{self.radius:g}: must be a positive number of pixels.")

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → the same, blurred."""
        from PIL import Image, ImageFilter

        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(self.radius)))


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """Uint8 RGB [H, W, 3] → the same without colours."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def keep_frame(pixels: np.ndarray) -> np.ndarray:
    """The frame as it is."""
    return pixels


@dataclass(frozen=True, slots=True)
class BoxMask:
    """White inside of a box, black elsewhere.

    Attributes:
        box: left, top, width and height, in pixels of the frame.
        is_inverted: whether black and white are exchanged.
    """

    box: tuple[int, int, int, int]
    is_inverted: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → a mask of the same size, uint8 [H, W, 3].

        Raises:
            RequestError: the box does not lie within the frame.
        """
        rows, columns = pixels.shape[:2]
        left, top, width, height = self.box
        if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
            raise RequestError(
                "box",
                f"{left},{top},{width},{height}: does not lie within the frames, which are {columns}x{rows}. "
                "Give left, top, width and height in pixels.",
            )
        mask = np.zeros((rows, columns), bool)
        mask[top : top + height, left : left + width] = True
        return paint_mask(mask ^ self.is_inverted)


@dataclass(frozen=True, slots=True, eq=False)
class PictureMask:
    """White where a picture is bright, black where it is dark; the picture covers the frame.

    Attributes:
        picture: uint8 RGB [h, w, 3].
        is_inverted: whether black and white are exchanged.
    """

    picture: np.ndarray
    is_inverted: bool = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → a mask of the same size, uint8 [H, W, 3]."""
        return paint_mask(fit_mask(self.picture, *pixels.shape[:2]) ^ self.is_inverted)


@dataclass(frozen=True, slots=True)
class Padding:
    """Pixels that are added on the sides of a frame, for a model to fill in."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def __post_init__(self) -> None:
        for side in ("left", "right", "top", "bottom"):
            if getattr(self, side) < 0:
                raise RequestError(side, f"{getattr(self, side)}: must be 0 or a number of pixels to add.")
        if not any((self.left, self.right, self.top, self.bottom)):
            raise RequestError("left", "0, and all other sides too: nothing would be added. Give one side.")

    @property
    def _widths(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.top, self.bottom), (self.left, self.right)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → the frame with grey around it."""
        return np.pad(pixels, (*self._widths, (0, 0)), constant_values=GREY)

    def make_mask(self, pixels: np.ndarray) -> np.ndarray:
        """Uint8 RGB [H, W, 3] → the mask of what was added, white; of the size of the padded frame."""
        return paint_mask(np.pad(np.zeros(pixels.shape[:2], bool), self._widths, constant_values=True))


def paint_mask(mask: np.ndarray) -> np.ndarray:
    """Bool [H, W] → uint8 [H, W, 3], white where it is true."""
    return np.repeat((mask * np.uint8(WHITE))[..., None], 3, axis=2)
