"""A run that goes on from the last frame of an earlier video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.fit import fit_frame
from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.request import GenerateRequest
from mlx_video.variants.variant import Variant


@dataclass(frozen=True, slots=True, eq=False)
class EarlierVideo:
    """What a run goes on from.

    Attributes:
        source: the video.
        last: its last frame, uint8 [H, W, 3].
        count: its frames.
    """

    source: SourceVideo
    last: np.ndarray
    count: int

    def frames(self, geometry: VideoGeometry) -> Iterator[np.ndarray]:
        """All frames, uint8 [H, W, 3] of the size of the results."""
        width, height = geometry.output_size
        return (fit_frame(frame, height, width) for frame, _ in self.source.read())

    def colour_match(self, first: np.ndarray) -> ColourMatch:
        """What brings a clip to the colours of this video.

        Args:
            first: of the clip, uint8 [H, W, 3]; it shows the same as `last`.
        """
        return ColourMatch.between(first, fit_frame(self.last, *first.shape[:2]))


def open_earlier(request: GenerateRequest) -> EarlierVideo | None:
    """Open the video that a run goes on from, and read it to its last frame; None where there is none.

    Raises:
        MediaError: it cannot be read.
    """
    if request.continue_from is None:
        return None
    source = open_video(request.continue_from)
    count = 0
    for count, (last, _) in enumerate(source.read(), 1):  # noqa: B007 (the last one counts)
        pass
    return EarlierVideo(source, last, count)


def as_continued(request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig) -> GenerateRequest:
    """The request for a clip that begins with an earlier video's last frame, in its size."""
    height, width = (side // config.vae.output_scale for side in earlier.last.shape[:2])
    return replace(
        request,
        image=earlier.last,
        width=request.width or (None if request.height else width),
        height=request.height or (None if request.width else height),
    )


def check_continuing(request: GenerateRequest, variant: Variant) -> None:
    """Refuse to go on where no image is taken, or another option says what the clip begins with.

    Raises:
        RequestError: the model or the request does not allow it.
    """
    name = "continue_from" if request.continue_from is not None else "segments"
    if name == "segments" and request.segments == 1:
        return
    if "image" not in variant.inputs.all:
        raise RequestError(
            name,
            f"{variant.title} takes no image, so nothing can begin with the last frame of another video. "
            "Take an image-to-video model or TI2V 5B; for one long video of this model, --context-frames.",
        )
    if request.continue_from is not None and request.image is not None:
        raise RequestError("image", "beside --continue-from: both say what the clip begins with. Give one.")
    if request.end_image is not None:
        raise RequestError(
            "end_image", f"beside {_FLAGS[name]}: a clip would end before it goes on. Give one."
        )
    if request.num_frames == 1:
        raise RequestError("num_frames", f"1: {_FLAGS[name]} adds frames to the last one. Ask for 5 or more.")
    if request.trim_first_frames:
        raise RequestError(
            "trim_first_frames", f"beside {_FLAGS[name]}: clips are joined as they are. Leave it out."
        )


_FLAGS = {"continue_from": "--continue-from", "segments": "--segments"}


def report_continuing(earlier: EarlierVideo, fps: float) -> Iterator[Notice]:
    """Say where the two videos differ."""
    if earlier.source.fps is not None and abs(earlier.source.fps - fps) > 0.01:
        yield Notice(
            f"{earlier.source.name} has {earlier.source.fps:g} frames per second; in the joined video it is "
            f"shown at the model's {fps:g}."
        )


class JoinedFrames:
    """Passes a clip on behind the video that it goes on from: in its colours, without the frame they share.

    Args:
        earlier: the video.
    """

    def __init__(self, earlier: EarlierVideo) -> None:
        self._earlier = earlier
        self._match: ColourMatch | None = None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The frames of the clip, uint8 [f, H, W, 3], that are new."""
        if self._match is not None:
            return self._match(frames)
        self._match = self._earlier.colour_match(frames[0])
        return self._match(frames[1:])
