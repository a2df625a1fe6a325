"""A run that goes on from the last frames of an earlier video, in its model's way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from mlx_video.conditioning.continuation.part import WHOLE, EarlierVideo, MadeParts, Part
from mlx_video.conditioning.continuation.way import Continuation, Length
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry, latent_frames, pixel_frames
from mlx_video.media.colour_match import ColourMatch
from mlx_video.media.sources.source_video import open_video
from mlx_video.request import GenerateRequest, flag_of
from mlx_video.runs.input_checks import check_inputs
from mlx_video.runs.run import Run
from mlx_video.variants.variant import Variant


@dataclass(frozen=True, slots=True)
class GoingOn:
    """How a run goes on from what is before it.

    Attributes:
        way: of the model; None for one that makes a video at once.
        length: of the video, where its inputs tell; None for what the options say.
        shared: frames that a part takes of what is before it.
        earlier: the video that the run goes on from; None for none.
    """

    way: Continuation | None = None
    length: Length | None = None
    shared: int = 0
    earlier: EarlierVideo | None = None


def settle_continuing(
    request: GenerateRequest, variant: Variant, config: ModelConfig
) -> tuple[GenerateRequest, GoingOn]:
    """The request with what comes of its parts and of the video before it, and how it goes on from there.

    Raises:
        MediaError: an input or the earlier video cannot be read.
        RequestError: the model or the request does not allow it.
    """
    length = find_length(request, variant, config)
    request = with_parts(request, length)
    check_continuing(request, variant)
    way = variant.continuation
    if way is None:
        return request, GoingOn(length=length)
    shared = way.count_shared(request, config, variant.title)
    earlier = open_earlier(request, way, shared, config.vae.stride[0])
    if earlier:
        request = way.begin(request, earlier, config)
    return request, GoingOn(way, length, shared, earlier)


def find_length(request: GenerateRequest, variant: Variant, config: ModelConfig) -> Length | None:
    """How long a video is whose inputs tell; None where the user's options alone do.

    Raises:
        MediaError: an input cannot be read.
        RequestError: `segments` says something else, or the model does not take what is given.
    """
    way = variant.continuation
    if way is None or way.find_length is None or request.decode_only:
        return None
    if request.continue_from is None:  # which may take the place of one that is missing
        check_inputs(request, variant)  # before any is opened
    return way.find_length(request, config)


def with_parts(request: GenerateRequest, length: Length | None) -> GenerateRequest:
    """The request with the number of parts that are left to make, where its inputs tell how many there are.

    Raises:
        RequestError: `segments` says something else.
    """
    if length is None:
        return request
    made = request.continue_from.parts if isinstance(request.continue_from, MadeParts) else 0
    left = length.parts - made
    if request.segments not in (1, left):
        raise RequestError(
            "segments",
            f"{request.segments}: {length.reason}, which makes {left} parts. Leave the option out.",
        )
    return replace(request, segments=left)


def open_earlier(
    request: GenerateRequest, way: Continuation, shared: int, stride: int
) -> EarlierVideo | None:
    """Open the video that a run goes on from, and read it to its last frame; None where there is none.

    Args:
        request: names the video.
        way: of the model.
        shared: frames that the clip takes; fewer of a shorter video, if the user does not ask for them.
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
    # Frames that the clip shows again fill whole latent frames of its own.
    kept = pixel_frames(latent_frames(len(tail), stride), stride) if way.is_shown_again else len(tail)
    return EarlierVideo(source, tuple(tail)[-kept:], count)


def find_part(going_on: GoingOn, geometry: VideoGeometry, request: GenerateRequest) -> Part:
    """Where a run lies in a video of several parts.

    Args:
        going_on: how it goes on from the part before.
        geometry: of the run.
        request: of the run.
    """
    way, length, earlier = going_on.way, going_on.length, going_on.earlier
    if way is None:
        return WHOLE
    end = length.frames if length and way.turns_back else None
    if earlier is None:
        return Part(turns_back_at=end)
    made = earlier.made
    begins = 0
    if made and way.reads_on:
        again = len(earlier.tail) if way.is_shown_again else 0
        begins = made.frames - again + way.count_lost(request)
    history = partial(earlier.history, geometry) if way.reads_history else None
    return Part(made.parts if made else 0, begins, history, end)


def check_continuing(request: GenerateRequest, variant: Variant) -> None:
    """Refuse to go on where nothing is taken of an earlier video, or another option says what the clip shows.

    Raises:
        RequestError: the model or the request does not allow it.
    """
    name = "continue_from" if request.continue_from is not None else "segments"
    if name == "segments" and request.segments == 1:
        return
    flag, way = flag_of(name), variant.continuation
    if way is None:
        raise RequestError(
            name,
            f"{variant.title} takes no image, so nothing can begin with the last frame of another video. "
            "Take an image-to-video model, TI2V 5B or VACE; for one long video of this model, "
            "--context-frames.",
        )
    for other in way.refuses:
        if getattr(request, other) is not None:
            raise RequestError(other, f"beside {flag}: both say what a clip shows. Leave one out.")
    for other in way.replaces:
        if request.continue_from is not None and getattr(request, other) is not None:
            raise RequestError(other, "beside --continue-from: both say what the clip begins with. Give one.")
    if request.end_image is not None:
        raise RequestError("end_image", f"beside {flag}: a clip would end before it goes on. Give one.")
    if request.num_frames == 1:
        raise RequestError("num_frames", f"1: {flag} adds frames to the last one. Ask for 5 or more.")
    if request.trim_first_frames:
        raise RequestError("trim_first_frames", f"beside {flag}: clips are joined as they are. Leave it out.")


def count_skipped(run: Run) -> int:
    """Frames at the start of a run's clip which are not new: shared, lost, or trimmed by the user."""
    way, trimmed = run.variant.continuation, run.request.trim_first_frames
    if way is None or run.request.decode_only:
        return trimmed
    if run.earlier is None:
        return trimmed + way.count_lost(run.request)
    return len(run.earlier.tail) if way.is_shown_again else 0


def count_made_frames(run: Run) -> int:
    """Frames that a run makes, of which it may not show all."""
    way = run.variant.continuation
    return run.plan.geometry.num_frames + (way.extra_frames if way else 0)


def count_new_frames(run: Run) -> int:
    """Frames that a run adds to its video."""
    new, way = count_made_frames(run) - count_skipped(run), run.variant.continuation
    if way and (most := way.most_new(run.request)) is not None:
        new = min(new, most)
    if run.length is None or run.length.frames is None:
        return new
    made = run.earlier.made if run.earlier else None
    return min(new, run.length.frames - (made.frames if made else 0))


def count_all_frames(run: Run) -> int:
    """Frames of the finished video: what there is, this clip, and the segments that follow."""
    before = run.earlier.count if run.earlier else 0
    if run.length and run.length.frames is not None:
        made = run.earlier.made if run.earlier else None
        return before - (made.frames if made else 0) + run.length.frames
    way, num_frames = run.variant.continuation, count_made_frames(run)
    again = run.shared_frames if way and way.is_shown_again else 0
    following = 0 if run.request.decode_only else run.request.segments - 1
    return before + count_new_frames(run) + following * (num_frames - again)


def report_continuing(earlier: EarlierVideo, fps: float) -> Iterator[Notice]:
    """Say where the two videos differ."""
    if earlier.source.fps is not None and abs(earlier.source.fps - fps) > 0.01:
        yield Notice(
            f"{earlier.source.name} has {earlier.source.fps:g} frames per second; in the joined video it is "
            f"shown at the model's {fps:g}."
        )


class NewFrames:
    """Finds the frames of a clip that are new, and brings them to the colours of what is before them.

    Args:
        run: whose clip it is.
        decoded: frames that leave the decoder.
    """

    def __init__(self, run: Run, decoded: int) -> None:
        way = run.variant.continuation
        self._earlier = run.earlier if way and way.matches_colours and way.is_shown_again else None
        self._skip = decoded - count_made_frames(run) + count_skipped(run)
        self._left = count_new_frames(run)
        self._match: ColourMatch | None = None

    def take(self, count: int) -> slice:
        """Which of the next `count` frames are new."""
        skipped = min(count, self._skip)
        kept = min(count - skipped, self._left)
        self._skip -= skipped
        self._left -= kept
        return slice(skipped, skipped + kept)

    def match(self, frames: np.ndarray, new: slice) -> np.ndarray:
        """The new ones of frames, uint8 [f, H, W, 3].

        Args:
            frames: of a clip, from one call to the next.
            new: from :meth:`take`.
        """
        if self._earlier and self._match is None and not self._skip:
            self._match = self._earlier.colour_match(frames[new.start - 1])
        return self._match(frames[new]) if self._match else frames[new]
