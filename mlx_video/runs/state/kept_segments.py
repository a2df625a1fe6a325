"""Finished segments of a video, each in a file beside it until the video is finished."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.continuation.part import MadeParts
from mlx_video.errors import MediaError
from mlx_video.latents.run_state import find_state_path, load_state
from mlx_video.media.fit import fit_frame
from mlx_video.media.frames_file import (
    FRAMES_NAME,
    FramesFileWriter,
    read_frames_file,
    read_frames_header,
    read_latents_beside,
)
from mlx_video.media.sources.source_video import SourceVideo, TimedFrame
from mlx_video.request import MAX_SEED, GenerateRequest
from mlx_video.runs.continuation import count_new_frames
from mlx_video.runs.run import Run

FORMAT = 1
_KEY = "segment"  # the text by which a kept segment is told from other files
_NUMBER = re.compile(r"\.segment-([1-9]\d*)\.safetensors")
_SUFFIX = ".safetensors"


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """What a file of a segment says besides its frames.

    Attributes:
        identity: of the segment's run; empty where it keeps no state.
        seed: of the segment.
        fps: of the video.
    """

    identity: Mapping[str, str]
    seed: int
    fps: float


def segment_path(video: Path, number: int) -> Path:
    """Where a segment is kept.

    Args:
        video: the video that the segments make.
        number: of the segment, from 1.
    """
    return video.with_name(f"{video.name}.segment-{number}.safetensors")


def exact_path(segment: Path) -> Path:
    """Where the last frames before the next segment are kept as numbers, beside the file of a segment."""
    return segment.with_name(f"{segment.name.removesuffix(_SUFFIX)}.exact{_SUFFIX}")


def open_kept(run: Run, path: Path, latents: mx.array) -> FramesFileWriter:
    """The file that a run's latents go to, and its own frames, without those that it goes on from."""
    width, height = run.plan.geometry.output_size
    count = count_new_frames(run)
    record = {
        "format": FORMAT,
        "identity": dict(run.identity),
        "seed": run.request.seed,
        "fps": run.plan.fps,
    }
    texts = {_KEY: json.dumps(record)}
    return FramesFileWriter(path, count, width, height, texts, latents=np.array(latents))


class ExactFrames:
    """Writes the last frames before the next part, of earlier parts too, as they leave the decoder.

    As a context manager it finishes its file, or removes it where an error ends the block.

    Args:
        run: that makes a part.
        path: of the segment.
    """

    def __init__(self, run: Run, path: Path) -> None:
        new, width, height = count_new_frames(run), run.plan.geometry.width, run.plan.geometry.height
        self._skip = max(0, new - run.shared_frames)
        before: deque[np.ndarray] = deque(maxlen=max(0, run.shared_frames - new))
        if before.maxlen and run.part.history:
            before.extend(run.part.history())
        count = min(new, run.shared_frames) + len(before)
        self._writer = FramesFileWriter(exact_path(path), count, width, height, {_KEY: "exact"}, "F32")
        for frame in before:
            self._writer.write(frame[None])

    def __enter__(self) -> ExactFrames:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)  # type: ignore[arg-type]  # handed on as it comes

    def write(self, frames: np.ndarray) -> None:
        """Take new frames, float32 [f, H, W, 3] in [-1, 1] and slightly beyond."""
        skipped = min(self._skip, len(frames))
        self._skip -= skipped
        self._writer.write(np.clip(frames[skipped:], -1, 1))


def read_record(path: Path) -> SegmentRecord:
    """Read what `open_kept` wrote beside the frames.

    Raises:
        MediaError: the file is damaged, holds something else, or a newer version wrote it.
    """
    texts = read_frames_header(path).metadata
    try:
        record = json.loads(texts[_KEY])
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, this version reads {FORMAT}")
        found = SegmentRecord(record["identity"], record["seed"], record["fps"])
        if type(found.seed) is not int or not 0 <= found.seed <= MAX_SEED or not found.fps > 0:
            raise ValueError(f"seed {found.seed}, {found.fps} frames per second")
        if not all(isinstance(text, str) for pair in found.identity.items() for text in pair):
            raise TypeError("identity must be texts")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MediaError(
            f"{path}: is no segment of a video ({error!r}). Begin anew without --resume."
        ) from error
    return found


def is_segment_file(path: Path) -> bool:
    """Whether `open_kept` wrote a file, of any version; told by its header."""
    try:
        return _KEY in read_frames_header(path).metadata
    except MediaError:
        return False


class KeptSegments:
    """The finished segments of one video.

    Attributes:
        count: how many are finished.

    Args:
        video: the video that the segments make; they are kept beside it.
        before: the video that the first of them goes on from; None for none.
    """

    def __init__(self, video: Path, before: SourceVideo | None) -> None:
        self._video = video
        self._before = before
        self.count = 0

    def path(self, number: int) -> Path:
        """Where a segment is kept, counted from 1."""
        return segment_path(self._video, number)

    def find(self, most: int) -> list[SegmentRecord]:
        """Take over the segments, `most` at most, that an earlier run has finished.

        Raises:
            MediaError: one is damaged.
        """
        records = []
        while self.count < most and self.path(self.count + 1).exists():
            records.append(read_record(self.path(self.count + 1)))
            self.count += 1
        return records

    def joined(self) -> MadeParts:
        """What there is so far, read from the files one frame at a time."""
        paths = [self.path(number) for number in range(1, self.count + 1)]
        exact = exact_path(paths[-1])
        return MadeParts(
            f"segments 1 to {self.count} of {self._video.name}",
            read_record(paths[0]).fps,
            self._read,
            parts=self.count,
            frames=sum(read_frames_header(path).infos[FRAMES_NAME].shape[0] for path in paths),
            read_exact=partial(read_frames_file, exact) if exact.exists() else None,
            read_latents=lambda: [_read_latents(path) for path in paths],
        )

    def _read(self) -> Iterator[TimedFrame]:
        _, height, width, _ = read_frames_header(self.path(1)).infos[FRAMES_NAME].shape
        for frame, _ in self._before.read() if self._before else ():
            yield fit_frame(frame, height, width), 1.0
        for number in range(1, self.count + 1):
            for frame in read_frames_file(self.path(number)):
                yield frame, 1.0

    def forget(self, first: int) -> None:
        """Remove the files of segment `first` and all behind it; files of others stay."""
        for number, path in self.files():
            if number >= first and is_segment_file(path):
                exact_path(path).unlink(missing_ok=True)
                path.unlink(missing_ok=True)

    def files(self) -> list[tuple[int, Path]]:
        """Numbers and paths of everything that has the name of a segment of this video, in order."""
        name, folder = self._video.name, self._video.parent
        found = []
        for path in folder.iterdir() if folder.is_dir() else ():
            rest = path.name.removeprefix(name)
            if rest != path.name and (match := _NUMBER.fullmatch(rest)):
                found.append((int(match[1]), path))
        return sorted(found)


def _read_latents(segment: Path) -> mx.array:
    """Latents [C, T, H, W] of a segment.

    Raises:
        MediaError: an earlier version kept it without them.
    """
    latents = read_latents_beside(segment)
    if latents is None:
        raise MediaError(
            f"{segment}: has no latents, so those of all segments cannot be joined. Leave --save-latents "
            "out, or begin anew without --resume."
        )
    return mx.array(latents)


def discard_state_of(request: GenerateRequest, record: SegmentRecord) -> None:
    """Remove the state beside the video if it is of a segment whose frames are kept already.

    A run that is killed between the two leaves both.
    """
    path = find_state_path(request)
    if path is None or not path.exists():
        return
    with suppress(MediaError):  # one that cannot be read is told of when it is gone on with
        if load_state(path).identity == record.identity:
            path.unlink()
