"""The result of a run as a value: frames, their speed, and how they came about."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.addresses import AddressError, expand_home
from mlx_video.errors import MediaError
from mlx_video.media.earlier_result import check_replaceable
from mlx_video.media.image import save_frames
from mlx_video.media.video import open_video_writer

_NOTEBOOK_WIDTH = (320, 720)  # CSS pixels: small clips are enlarged, large ones fit the page


@dataclass(eq=False)
class Video:
    """A finished video; in a notebook it shows itself.

    Attributes:
        frames: [F, H, W, 3], uint8 RGB.
        fps: frames per second.
        latents: [C, T, H, W], float32, in latent cells; None if they were not kept.
        settings: everything the run was made with, stored in saved files.

    Raises:
        ValueError: the frames have another shape or dtype.
    """

    frames: np.ndarray
    fps: float
    latents: mx.array | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            found = f"{self.frames.dtype} {self.frames.shape}"
            raise ValueError(f"frames are {found}, expected uint8 [F, H, W, 3].")

    def save(self, path: str | Path) -> Path:
        """Write the video; a name without suffix becomes a folder of lossless PNGs.

        Args:
            path: `.mp4`, `.gif`, `.webp`, for one frame also `.png` or `.jpg`; or the name of a folder.

        Returns:
            The path written.

        Raises:
            MediaError: the file cannot be written, or is there already and was not made by this package.
            RequestError: another suffix, or that of a still image for more than one frame.
        """
        try:
            path = expand_home(path)
        except AddressError as error:
            raise MediaError(str(error)) from error
        if not path.suffix:
            save_frames(path, self.frames, self.settings)
            return path
        check_replaceable(path)
        height, width = self.frames.shape[1:3]
        with open_video_writer(path, width, height, self.fps, self.settings) as writer:
            writer.write(self.frames)
        return path

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        prompt = self.settings.get("prompt", "")
        about = f", prompt={prompt if len(prompt) <= 60 else prompt[:57] + '...'!r}" if prompt else ""
        return f"Video({count} frames of {width}x{height}, {self.fps:g} fps, {count / self.fps:.2f} s{about})"

    def _repr_html_(self) -> str:
        if not len(self.frames):  # latents alone were asked for
            return f"<div>{escape(repr(self))}</div>"
        with tempfile.TemporaryDirectory() as folder:
            content = self.save(Path(folder) / "video.mp4").read_bytes()
        low, high = _NOTEBOOK_WIDTH
        width = min(max(self.frames.shape[2], low), high)
        source = f"data:video/mp4;base64,{base64.b64encode(content).decode('ascii')}"
        return (
            f'<video width="{width}" title="{escape(self.settings.get("prompt", ""))}" '
            f'autoplay loop muted controls playsinline src="{source}"></video>'
        )


@dataclass(frozen=True, slots=True, eq=False)
class VideoMade:
    """The last of what a stream of events yields.

    Attributes:
        video: that was made.
    """

    video: Video
