"""Which frames of a clip are taken: at which rate, and which stretches of them become examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from mlx_video.geometry import latent_frames, pixel_frames
from mlx_video.media.sources.pick_frames import pick_all
from mlx_video.media.sources.source_video import SourceVideo

Extraction = Literal["head", "chunk", "slide", "uniform", "full"]

Item = TypeVar("Item")


class Window(NamedTuple):
    """A stretch of a clip's frames."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class FrameRule:
    """Which frames become examples, as musubi-tuner takes them.

    Attributes:
        extraction: "head" takes the first frames, "chunk" one stretch after the other, "slide" one every
            `stride` frames, "uniform" `sample` of them evenly, "full" all.
        target_frames: lengths of stretches, rising, 4n+1 each; "full" does without.
        stride, sample, max_frames: of "slide", "uniform", "full".
        source_fps: rate of the clips where the user states it: frames are dropped until the model's is met.
        follows_file: whether frames are picked by the rate that each file states, where `source_fps` is None;
            else they are taken one by one.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/image_video_dataset.py, VideoDataset.
    """

    extraction: Extraction = "head"
    target_frames: tuple[int, ...] = (1,)
    stride: int = 1
    sample: int = 1
    max_frames: int = 129
    source_fps: float | None = None
    follows_file: bool = False

    @property
    def limit(self) -> int | None:
        """How many frames of a clip are read at most; None for all."""
        if self.extraction == "head":
            return max(self.target_frames)
        return self.max_frames if self.extraction == "full" else None

    def windows(self, frames: int) -> list[Window]:
        """Stretches of a clip of so many frames, in musubi-tuner's order; equal ones count once."""
        return list(dict.fromkeys(self._find_windows(frames)))

    def _find_windows(self, frames: int) -> Iterator[Window]:
        if self.extraction == "full":
            length = round_down(min(frames, self.max_frames))
            yield from [Window(0, length)] if length > 0 else []
            return
        for length in self.target_frames:
            for start in self._starts(frames, length) if length <= frames else ():
                yield Window(start, length)

    def _starts(self, frames: int, length: int) -> Iterator[int]:
        last = frames - length
        if self.extraction == "head":
            yield 0
        elif self.extraction == "chunk":
            yield from range(0, last + 1, length)
        elif self.extraction == "slide":
            yield from range(0, last + 1, self.stride)
        else:
            yield from map(int, np.linspace(0, last, self.sample, dtype=int))

    def take(self, video: SourceVideo, model_fps: float) -> Iterator[np.ndarray]:
        """Frames of a clip at the rate that the model learns, up to the limit, uint8 RGB [H, W, 3].

        Raises:
            MediaError: the clip cannot be read.
        """
        if self.source_fps is None and self.follows_file:
            frames = pick_all(video, model_fps)
            return islice(frames, self.limit)
        one_by_one = (frame for frame, _ in video.read())
        if self.source_fps is None:
            return islice(one_by_one, self.limit)
        return drop_frames(one_by_one, self.source_fps, model_fps, self.limit)


def drop_frames(
    frames: Iterator[Item], source_fps: float, target_fps: float, limit: int | None = None
) -> Iterator[Item]:
    """Leave out frames until a rate is met; none is repeated where the source is slower.

    Args:
        frames: of the clip.
        source_fps, target_fps: frames per second.
        limit: of the new rate's frames; one that would come later ends the clip.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/media_utils.py, load_video.
    """
    position, step, previous = 0.0, target_fps / source_fps, -1
    for frame in frames:
        number = int(position)
        position += step  # summed up, with its roundings, as musubi-tuner does
        if number == previous:
            continue
        previous = number
        if limit is not None and number >= limit:
            return
        yield frame


def round_down(frames: int) -> int:
    """The largest 4n+1 that is not more; less than 1 for 0."""
    return pixel_frames(latent_frames(frames)) if frames > 0 else 0


def round_targets(frames: tuple[int, ...]) -> tuple[int, ...]:
    """Lengths of stretches rounded down to 4n+1, each once, rising."""
    return tuple(sorted({round_down(count) for count in frames}))
