"""Pictures and videos of a folder, their captions and their controls, found as musubi-tuner finds them.

Source: kohya-ss/musubi-tuner src/musubi_tuner/dataset/media_utils.py, glob_images and glob_videos;
datasources.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from mlx_video.errors import DatasetError
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.limits import MOST_CLIPS
from mlx_video.training.data.clips import Clip
from mlx_video.training.data.text_files import read_caption

PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"))
VIDEO_SUFFIXES = frozenset((".mp4", ".webm", ".avi", ".mkv", ".mov", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"))


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files of a folder by their suffixes, in the order of their names; hidden ones do not count.

    Raises:
        DatasetError: there is no such folder, or too much in it.
    """
    if not folder.is_dir():
        what = "is a file, a folder is expected" if folder.exists() else "no such folder"
        raise DatasetError(f"{folder}: {explain_missing(folder, f'{what}. Check the path.')}")
    found = []
    try:
        for path in folder.iterdir():
            if path.suffix.lower() in suffixes and not path.name.startswith("."):
                found.append(path)
            if len(found) > MOST_CLIPS:
                raise DatasetError(f"{folder}: more than {MOST_CLIPS:,} files. Split the dataset.")
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be read ({error.strerror}). Check permissions.") from error
    return sorted(found)


def caption_clip(path: Path, suffix: str, *, is_picture: bool) -> Clip:
    """A file with the caption beside it; without one where there is no such file."""
    place = path.with_suffix(suffix)
    caption = read_caption(place) if place.exists() or place.is_symlink() else None
    return Clip(path, caption, str(place), is_picture)


def match_picture_controls(
    pictures: Iterable[Path], folder: Path, count: int
) -> dict[Path, tuple[Path, ...]]:
    """Control pictures by the names of the pictures that they belong to.

    `name.png` comes first, then `name_0.png`, `name_1.png` and so on; what a longer name takes, a shorter one
    does not.

    Args:
        pictures: to which controls are sought.
        folder: of the controls.
        count: how many each picture needs; further ones do not count.

    Raises:
        DatasetError: a picture has too few, or a control's name has no number.
    """
    free = set(list_files(folder, PICTURE_SUFFIXES))
    matched: dict[Path, tuple[Path, ...]] = {}
    for picture in sorted(pictures, key=lambda path: (-len(path.name), path)):
        own = {path for path in free if path.name.startswith((f"{picture.stem}.", f"{picture.stem}_"))}
        free -= own
        ordered = sorted(own, key=lambda path: (_control_number(path, picture.stem), path))
        if len(ordered) < count:
            raise DatasetError(
                f"{picture}: {folder} holds {len(ordered)} control pictures named after it, {count} are "
                f"needed. Name them {picture.name}, or {picture.stem}_0{picture.suffix} and on."
            )
        matched[picture] = tuple(ordered[:count])
    return matched


def _control_number(path: Path, stem: str) -> int:
    if path.stem == stem:
        return 0
    number = path.stem.rsplit("_", 1)[-1]
    if not number.isdecimal():
        raise DatasetError(f"{path}: its name ends in no number. Call it {stem}_0{path.suffix}, or another.")
    return int(number) + 1


def match_video_control(video: Path, folder: Path) -> Path:
    """The control of a video: a file of its name, a folder of pictures, or a file with another suffix.

    Raises:
        DatasetError: there is none.
    """
    if (same := folder / video.name).exists():
        return same
    if (pictures := folder / video.stem).is_dir():
        return pictures
    others = [path for path in list_files(folder, VIDEO_SUFFIXES) if path.stem == video.stem]
    if not others:
        raise DatasetError(
            f"{video}: {folder} holds no control of this name. Put {video.name} there, or a folder "
            f"{video.stem} of pictures."
        )
    return others[0]
