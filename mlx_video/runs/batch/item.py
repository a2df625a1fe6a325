"""A video of a list, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_video.events import VideoFailed
from mlx_video.media.clip import Video
from mlx_video.request import GenerateRequest

_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class BatchItem:
    """A video of a list.

    Attributes:
        index: counts from 0.
        total: videos of the list.
        request: what is asked for.
    """

    index: int
    total: int
    request: GenerateRequest

    @property
    def name(self) -> str:
        """What people call it: the name of its file, or its prompt."""
        path, prompt = self.request.output_path, self.request.prompt
        if path is not None:
            return path.name
        return prompt if len(prompt) <= _NAME_LENGTH else f"{prompt[: _NAME_LENGTH - 1]}…"


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """What became of a video of a list.

    Attributes:
        index: its place in the list, from 0.
        request: what was asked for.
        video: frames, latents and settings; None where it failed, was made before, or is kept in files alone.
        error: why it was not made; None if it was.
        was_made_before: whether an earlier run of the list had made it.
    """

    index: int
    request: GenerateRequest
    video: Video | None = None
    error: Exception | None = None
    was_made_before: bool = False


def failed(item: BatchItem, error: Exception) -> Iterator[VideoFailed | BatchResult]:
    """What is told of a video that is not made."""
    yield VideoFailed(item.index, item.total, item.name, error)
    yield BatchResult(item.index, item.request, error=error)
