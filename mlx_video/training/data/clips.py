"""What a user's files become: clips with captions, and how tables of them are to be cut and batched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlx_video.conditioning.control.one_frame import OneFrame
from mlx_video.errors import DatasetError
from mlx_video.limits import MOST_CLIPS
from mlx_video.training.data.bucket_sizes import SizeRule
from mlx_video.training.data.fit_pixels import FitName
from mlx_video.training.data.frame_windows import FrameRule

CONTROL = "control"
"""Input that a dataset calls control, whatever the model calls it."""

Given = Path | tuple[Path, ...] | str | float
"""What a clip brings for an input: a file, several, a word, or a number."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One picture or video of a dataset.

    Attributes:
        path: a file, or a folder of pictures in the order of their names.
        caption: what it shows; None where there is no caption, which is told before anything is encoded.
        caption_place: the file that the caption stands in, or is missing from.
        is_picture: whether it counts as one frame.
        inputs: name of an option of a run → what the clip brings for it; :data:`CONTROL` besides.
        run: what the list tells of the run that made it, by names of columns.
    """

    path: Path
    caption: str | None
    caption_place: str
    is_picture: bool = False
    inputs: Mapping[str, Given] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Clips that are cut and batched alike.

    Attributes:
        name: for messages, such as "data.toml [[datasets]] 1".
        clips: in the order of their names, or of their lines.
        sizes: the size that a clip of some size is brought to.
        fit: how it is brought there.
        frames: which of its frames are taken.
        cache_directory: where what is encoded is kept.
        batch_size: examples of a step, at most.
        num_repeats: how often an epoch shows each.
        one_frame: where a picture and its controls lie in time; None for clips.
        pads_controls: whether the last frame of a control that is too short is repeated; else it is refused.
        notices: what was left out or decided for the user.
    """

    name: str
    clips: tuple[Clip, ...]
    sizes: SizeRule
    fit: FitName
    frames: FrameRule
    cache_directory: Path
    batch_size: int = 1
    num_repeats: int = 1
    one_frame: OneFrame | None = None
    pads_controls: bool = False
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dataset:
    """All tables that a training learns from.

    Attributes:
        source: the file or folder that the user named.
        tables: in the order of the file.
    """

    source: Path
    tables: tuple[Table, ...]

    @property
    def num_clips(self) -> int:
        """Pictures and videos of all tables."""
        return sum(len(table.clips) for table in self.tables)

    def missing_captions(self) -> list[Clip]:
        """The clips without a caption."""
        return [clip for table in self.tables for clip in table.clips if clip.caption is None]


def check_count(clips: Iterable[object], name: str) -> None:
    """Refuse a dataset without clips, or with more than are taken.

    Raises:
        DatasetError: there are none, or too many.
    """
    count = sum(1 for _ in clips)
    if not count:
        raise DatasetError(f"{name}: no picture and no video. Check the folder, and the names of the files.")
    if count > MOST_CLIPS:
        raise DatasetError(f"{name}: {count:,} clips, at most {MOST_CLIPS:,} are read. Split the dataset.")
