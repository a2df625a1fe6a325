"""Clips on their way to examples: opened, measured, and read stretch by stretch in one go."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from mlx_video.errors import DatasetError, MLXVideoError
from mlx_video.files.whole_file import written_whole
from mlx_video.limits import MOST_FRAMES
from mlx_video.media.open_image import open_image
from mlx_video.media.sources.source_video import SourceVideo, TimedFrame, open_video
from mlx_video.training.data.frame_windows import FrameRule, Window
from mlx_video.training.data.text_files import parse_text, read_text

Frames = Iterator[np.ndarray]


@dataclass(frozen=True, slots=True)
class ClipFacts:
    """What is known of a clip once it was read.

    Attributes:
        width, height: pixels.
        frames: at the rate that the model learns, and no more than its table takes.
    """

    width: int
    height: int
    frames: int


def open_clip(path: Path, *, is_picture: bool) -> SourceVideo:
    """A clip that can be read from its beginning.

    Raises:
        MediaError: it is missing, or neither picture nor video.
    """
    if not is_picture:
        return open_video(path)

    def read() -> Iterator[TimedFrame]:
        yield open_image(path).pixels, 1.0

    return SourceVideo(str(path), None, read, is_still=True)


def measure_clip(video: SourceVideo, rule: FrameRule, model_fps: float) -> ClipFacts:
    """Read a clip as far as its table takes it, one frame at a time.

    Raises:
        MediaError: it cannot be read.
        DatasetError: it does not end.
    """
    count, width, height = 0, 0, 0
    for frame in rule.take(video, model_fps):
        height, width = frame.shape[:2]
        count += 1
        if count > MOST_FRAMES:
            raise DatasetError(f"{video.name}: has more than {MOST_FRAMES:,} frames. Cut it into clips.")
    return ClipFacts(width, height, count)


def recall_facts(path: Path, measure: Callable[[], ClipFacts]) -> ClipFacts:
    """Facts that a file keeps; measured, and kept in it, where it has none."""
    with suppress(MLXVideoError, TypeError, AttributeError):
        if path.is_file():
            text = read_text(path)
            facts = ClipFacts(**parse_text(path, "JSON", lambda: json.loads(text)))
            if all(isinstance(value, int) and value > 0 for value in asdict(facts).values()):
                return facts
    facts = measure()
    _keep_facts(path, facts)
    return facts


def _keep_facts(path: Path, facts: ClipFacts) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(asdict(facts)))


def read_windows(
    frames: Iterable[np.ndarray], windows: Sequence[Window]
) -> Iterator[tuple[Window, list[np.ndarray]]]:
    """Stretches of a clip, which is read once; only frames of stretches that still come are held.

    Args:
        frames: of the clip, one by one.
        windows: in any order; each comes when its last frame is read.

    Raises:
        DatasetError: the clip ends before the last stretch does.
    """
    waiting = deque(sorted(set(windows), key=lambda window: (window.start + window.length, window.start)))
    held: deque[np.ndarray] = deque()
    first = 0  # number of the first held frame
    for number, frame in enumerate(frames):
        held.append(frame)
        while waiting and number + 1 == waiting[0].start + waiting[0].length:
            window = waiting.popleft()
            begin = window.start - first
            yield window, [held[begin + index] for index in range(window.length)]
        if not waiting:
            return
        earliest = min(window.start for window in waiting)
        while held and first < earliest:
            held.popleft()
            first += 1
    raise DatasetError(
        f"a clip ends before frame {waiting[0].start + waiting[0].length}. It changed meanwhile."
    )


def with_last_repeated(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames of a clip, then its last one without end."""
    last = None
    for last in frames:
        yield last
    if last is not None:
        yield from repeat(last)
