"""Finished segments of a video, each in a file beside it until the video is finished."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlx_video.errors import MediaError
from mlx_video.latents.run_state import find_state_path, load_state
from mlx_video.media.fit import fit_frame
from mlx_video.media.frames_file import FRAMES_NAME, FramesFileWriter, read_frames_file, read_frames_header
from mlx_video.media.sources.source_video import SourceVideo, TimedFrame
from mlx_video.request import MAX_SEED, GenerateRequest
from mlx_video.runs.run import Run

FORMAT = 1
_KEY = "segment"  # the text by which a kept segment is told from other files
_NUMBER = re.compile(r"\.segment-([1-9]\d*)\.safetensors")


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


def open_kept(run: Run, path: Path) -> FramesFileWriter:
    """The file that a run's own frames go to, without those of the video that it goes on from."""
    width, height = run.plan.geometry.output_size
    count = run.plan.geometry.num_frames - (len(run.earlier.tail) if run.earlier else 0)
    record = {
        "format": FORMAT,
        "identity": dict(run.identity),
        "seed": run.request.seed,
        "fps": run.plan.fps,
    }
    return FramesFileWriter(path, count, width, height, {_KEY: json.dumps(record)})


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

    def joined(self) -> SourceVideo:
        """What there is so far, read from the files one frame at a time."""
        fps = read_record(self.path(1)).fps
        return SourceVideo(f"segments 1 to {self.count} of {self._video.name}", fps, self._read)

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
