"""A run that goes on from the last frame, or the last frames, of an earlier video."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry, latent_frames, pixel_frames
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.fit import fit_frame
from mlx_video.media.sources.source_video import SourceVideo, TimedFrame, open_video
from mlx_video.request import GenerateRequest, flag_of
from mlx_video.variants.variant import Variant

USUAL_TAIL = 17
"""Frames of an earlier video that a clip begins with, for models that take several."""
GREY = 128
"""The level next to 0 in [-1, 1]: what VACE sees of frames that are to be made."""


@dataclass(frozen=True, slots=True, eq=False)
class EarlierVideo:
    """What a run goes on from.

    Attributes:
        source: the video.
        tail: its last frames, uint8 [H, W, 3] each, which the clip shows again.
        count: its frames.
    """

    source: SourceVideo
    tail: tuple[np.ndarray, ...]
    count: int

    @property
    def last(self) -> np.ndarray:
        """The last frame."""
        return self.tail[-1]

    def frames(self, geometry: VideoGeometry) -> Iterator[np.ndarray]:
        """All frames, uint8 [H, W, 3] of the size of the results."""
        width, height = geometry.output_size
        return (fit_frame(frame, height, width) for frame, _ in self.source.read())

    def colour_match(self, shown_again: np.ndarray) -> ColourMatch:
        """What brings a clip to the colours of this video.

        Args:
            shown_again: frame of the clip, uint8 [H, W, 3], that shows the same as `last`.
        """
        return ColourMatch.between(shown_again, fit_frame(self.last, *shown_again.shape[:2]))


def _takes_tail(variant: Variant) -> bool:
    """Whether a clip of this model may begin with several given frames, instead of one image."""
    return "vace_video" in variant.inputs.all


def count_shared(request: GenerateRequest, variant: Variant, config: ModelConfig) -> int:
    """Frames that a clip has in common with the one that it goes on from.

    Raises:
        RequestError: the model, or the length of the clip, does not allow what the user asks.
    """
    asked, num_frames = request.continue_frames, request.num_frames or config.sampling.num_frames
    stride = config.vae.stride[0]
    if not _takes_tail(variant):
        if asked not in (None, 1):
            raise RequestError(
                "continue_frames",
                f"{asked}: clips of {variant.title} begin with one frame. Leave the option out.",
            )
        return 1
    if asked is None:
        return min(USUAL_TAIL, pixel_frames(latent_frames((num_frames + 1) // 2, stride), stride))
    if pixel_frames(latent_frames(asked, stride), stride) != asked or asked >= num_frames:
        raise RequestError(
            "continue_frames",
            f"{asked}: must be {stride}n+1, as the VAE packs frames, and less than the clip's {num_frames}.",
        )
    return asked


def open_earlier(request: GenerateRequest, shared: int, stride: int) -> EarlierVideo | None:
    """Open the video that a run goes on from, and read it to its last frame; None where there is none.

    Args:
        request: names the video.
        shared: frames that the clip shows again; fewer of a shorter video, if the user does not ask for them.
        stride: pixel frames of a latent frame.

    Raises:
        MediaError: it cannot be read.
        RequestError: it has fewer frames than the clip is to begin with.
    """
    if request.continue_from is None:
        return None
    source = open_video(request.continue_from)
    tail: deque[np.ndarray] = deque(maxlen=shared)
    count = 0
    for frame, _ in source.read():
        tail.append(frame)
        count += 1
    if count < shared and request.continue_frames is not None:
        raise RequestError("continue_frames", f"{shared}: {source.name} has {count} frames. Give less.")
    kept = pixel_frames(latent_frames(len(tail), stride), stride)
    return EarlierVideo(source, tuple(tail)[-kept:], count)


def as_continued(
    request: GenerateRequest, earlier: EarlierVideo, config: ModelConfig, variant: Variant
) -> GenerateRequest:
    """The request for a clip that begins with what an earlier video ends with, in its size."""
    height, width = (side // config.vae.output_scale for side in earlier.last.shape[:2])
    if not _takes_tail(variant):
        return replace(
            request,
            image=earlier.last,
            width=request.width or (None if request.height else width),
            height=request.height or (None if request.width else height),
        )
    num_frames = request.num_frames or config.sampling.num_frames
    return replace(
        request,
        vace_video=_given_then("video", earlier.tail, GREY, num_frames),
        vace_video_mask=_given_then(
            "mask", (np.zeros_like(earlier.last),) * len(earlier.tail), 255, num_frames
        ),
        video_fps=None,  # the tail is at the model's rate
        width=request.width or round((request.height or height) * width / height),
        height=request.height or round((request.width or width) * height / width),
    )


def _given_then(what: str, given: Sequence[np.ndarray], level: int, num_frames: int) -> SourceVideo:
    """Some frames, and flat ones behind them up to `num_frames`."""

    def read() -> Iterator[TimedFrame]:
        yield from ((frame, 1.0) for frame in given)
        flat = np.full_like(given[0], level)
        yield from ((flat, 1.0) for _ in range(num_frames - len(given)))

    return SourceVideo(f"{what} of {len(given)} frames to go on from", None, read)


def check_continuing(request: GenerateRequest, variant: Variant) -> None:
    """Refuse to go on where no image is taken, or another option says what the clip begins with.

    Raises:
        RequestError: the model or the request does not allow it.
    """
    name = "continue_from" if request.continue_from is not None else "segments"
    if name == "segments" and request.segments == 1:
        return
    flag = flag_of(name)
    if "image" not in variant.inputs.all:
        raise RequestError(
            name,
            f"{variant.title} takes no image, so nothing can begin with the last frame of another video. "
            "Take an image-to-video model, TI2V 5B or VACE; for one long video of this model, "
            "--context-frames.",
        )
    for other in ("vace_video", "vace_video_mask"):
        if getattr(request, other) is not None:
            raise RequestError(other, f"beside {flag}: both say what a clip shows. Leave one out.")
    if request.continue_from is not None and request.image is not None:
        raise RequestError("image", "beside --continue-from: both say what the clip begins with. Give one.")
    if request.end_image is not None:
        raise RequestError("end_image", f"beside {flag}: a clip would end before it goes on. Give one.")
    if request.num_frames == 1:
        raise RequestError("num_frames", f"1: {flag} adds frames to the last one. Ask for 5 or more.")
    if request.trim_first_frames:
        raise RequestError("trim_first_frames", f"beside {flag}: clips are joined as they are. Leave it out.")


def count_all_frames(
    request: GenerateRequest, num_frames: int, earlier: EarlierVideo | None, shared: int
) -> int:
    """Frames of the finished video: what there is, this clip, and the segments that follow.

    Args:
        request: what the user asked for.
        num_frames: of a clip.
        earlier: the video that this clip goes on from.
        shared: frames that a segment has in common with the one before.
    """
    before = earlier.count - len(earlier.tail) if earlier else 0
    following = 0 if request.decode_only else request.segments - 1
    return before + num_frames - request.trim_first_frames + following * (num_frames - shared)


def report_continuing(earlier: EarlierVideo, fps: float) -> Iterator[Notice]:
    """Say where the two videos differ."""
    if earlier.source.fps is not None and abs(earlier.source.fps - fps) > 0.01:
        yield Notice(
            f"{earlier.source.name} has {earlier.source.fps:g} frames per second; in the joined video it is "
            f"shown at the model's {fps:g}."
        )


class JoinedFrames:
    """Passes a clip on behind the video that it goes on from: in its colours, without the frames they share.

    Args:
        earlier: the video.
    """

    def __init__(self, earlier: EarlierVideo) -> None:
        self._earlier = earlier
        self._match: ColourMatch | None = None
        self._shared_left = len(earlier.tail)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """The frames of the clip, uint8 [f, H, W, 3], that are new."""
        if self._match is not None:
            return self._match(frames)
        again, fresh = frames[: self._shared_left], frames[self._shared_left :]
        self._shared_left -= len(again)
        if self._shared_left:
            return fresh
        self._match = self._earlier.colour_match(again[-1])
        return self._match(fresh)
