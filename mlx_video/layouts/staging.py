"""Making a folder that appears whole or not at all, on a disk that has room for it."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_video.errors import BusyFolderError, CheckpointError
from mlx_video.files.file_bytes import describe_two_sizes
from mlx_video.files.unusable_paths import real_path
from mlx_video.layouts.components import list_parts
from mlx_video.layouts.folder_layout import (
    CONFIG_FILE,
    TOKENIZER_FILES,
    TOKENIZER_FOLDER,
    TRANSFORMER_FILES,
    recognise_layout,
)

_UNFINISHED = ".unfinished"
_REPLACED = ".replaced"
# What the system itself puts into any folder; everything else hidden is the user's.
_SYSTEM_NAMES = re.compile(r"\.DS_Store|\.localized|\._.*")
_OUR_NAMES = {
    CONFIG_FILE,
    *TRANSFORMER_FILES.values(),
    TOKENIZER_FOLDER,
    *TOKENIZER_FILES,
}
# A plan counts tensor data; headers, config and tokenizer come on top.
_MARGIN = 1.01


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """Make a folder under a hidden name and give it its own name when the block ends without exception.

    A leftover of an interrupted run is removed first. An older converted model under the final name stays
    usable until the last moment. After an exception, Ctrl-C included, nothing new remains.

    Args:
        output: the folder's final name, which may be a link to the folder; absent, empty, or an older
            converted model.

    Yields:
        An empty folder beside it, to be filled by the caller.

    Raises:
        CheckpointError: the name is taken by something else or is the root of a disk, another run is writing
            there, or the disk fails.
    """
    final = real_path(output)
    check_replaceable(final)
    stage = _sibling(final, _UNFINISHED)
    descriptor = _make_stage(final, stage)
    try:
        yield stage
        _put_in_place(stage, final)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    finally:
        os.close(descriptor)


def find_unfinished(output: Path) -> Path | None:
    """What an interrupted run left beside `output`; `staged_folder` would remove it."""
    stage = _sibling(real_path(output), _UNFINISHED)
    return stage if stage.is_dir() else None


def is_unfinished_name(path: Path) -> bool:
    """Whether a folder has the hidden name of a conversion that was not finished."""
    name = real_path(path).name
    return name.startswith(".") and name.endswith(_UNFINISHED)


def check_free_space(
    folder: Path,
    needed_bytes: int,
    *,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    advice: str = "Free some space, or write to another disk.",
) -> None:
    """Check before writing that a disk has room for the plan and one percent more.

    Args:
        folder: where the files will go; need not exist yet.
        needed_bytes: bytes of all files together.
        free_bytes: tells how many bytes are free on the disk of an existing folder.
        advice: what the user can do, for the message.

    Raises:
        CheckpointError: there is not enough room.
    """
    existing = next(place for place in (real_path(folder), *real_path(folder).parents) if place.exists())
    needed, free = int(needed_bytes * _MARGIN), free_bytes(existing)
    if free < needed:
        texts = describe_two_sizes(needed, free)
        raise CheckpointError(f"{folder}: needs {texts[0]}, {texts[1]} free on {existing}. {advice}")


def _sibling(final: Path, ending: str) -> Path:
    if not final.name:
        raise CheckpointError(f"{final}: is the root of a disk, which cannot be replaced. Choose a folder.")
    return final.with_name(f".{final.name}{ending}")


def check_replaceable(output: Path) -> None:
    """Refuse a name for a folder to be made that something else has.

    What counts is the place that the name leads to: `absent/../photos` is `photos`, though no such path can
    be opened.

    Raises:
        CheckpointError: it is a file, or a folder that holds anything but a converted model.
    """
    final = real_path(output)
    if final.is_symlink():
        raise CheckpointError(
            f"{final}: is a link to {os.readlink(final)}, which leads back to it. Choose another name."
        )
    if not final.exists():
        return
    if not final.is_dir():
        raise CheckpointError(f"{final}: is a file, a folder is to be made there. Choose another name.")
    names = _names_in(final)
    if names and recognise_layout(final) != "converted":
        raise CheckpointError(
            f"{final}: is not empty and no converted model (first: {names[0]}). Choose another folder."
        )
    if foreign := next(_foreign_names(final, names), None):
        raise CheckpointError(
            f"{final}: would be replaced, but holds {foreign}, which is no part of a converted model. "
            "Move it away, or choose another folder."
        )


def lies_in(path: Path, folder: Path) -> bool:
    """Whether a path leads to a folder or into it, by its own name or by a link; both must exist."""
    if not folder.is_dir():
        return False
    places = {place for whole in (path.absolute(), real_path(path)) for place in (whole, *whole.parents)}
    return any(place.exists() and place.samefile(folder) for place in places)


def _names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not _SYSTEM_NAMES.fullmatch(entry.name))


def _foreign_names(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """What no conversion writes, by paths inside the folder."""
    ours = _OUR_NAMES | {name for part in list_parts() for name in (part.file_name, part.second_file)}
    for name in names:
        is_folder = (folder / name).is_dir()
        if name not in ours or is_folder != (name == TOKENIZER_FOLDER):
            yield name
        elif is_folder:
            found = _names_in(folder / name)
            yield from (f"{name}/{other}" for other in found if other not in TOKENIZER_FILES)


def _make_stage(output: Path, stage: Path) -> int:
    """Make an empty stage that no other run uses; returns the descriptor that holds it."""
    try:
        stage.parent.mkdir(parents=True, exist_ok=True)
        _finish_replacing(output)
        if stage.is_dir():
            os.close(_hold(stage, output))
            shutil.rmtree(stage)
        try:
            stage.mkdir()
            return _hold(stage, output)
        except KeyboardInterrupt:
            shutil.rmtree(stage, ignore_errors=True)
            raise
    except OSError as error:
        raise CheckpointError(
            f"{output}: cannot be made ({error.strerror}). Check that {stage.parent} is a folder of yours."
        ) from error


def _hold(stage: Path, output: Path) -> int:
    """Lock a stage for as long as the descriptor is open; the system unlocks it when a process dies."""
    descriptor = os.open(stage, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise BusyFolderError(
            f"{output}: another run is writing this folder ({stage.name}). "
            "Wait for it, or choose another folder."
        ) from error
    except OSError:
        pass  # some network disks have no locks
    return descriptor


def _put_in_place(stage: Path, final: Path) -> None:
    replaced = _sibling(final, _REPLACED)
    try:
        if final.is_dir() and any(final.iterdir()):
            check_replaceable(final)  # once more: writing took long enough for other things to get there
            final.rename(replaced)
        stage.rename(final)
    except OSError as error:
        _finish_replacing(final)
        raise CheckpointError(
            f"{final}: cannot be put in place ({error.strerror}). Remove it, or choose another folder."
        ) from error
    with suppress(OSError):
        shutil.rmtree(replaced)


def _finish_replacing(final: Path) -> None:
    """Bring back or remove the older model that a run was replacing when it ended."""
    replaced = _sibling(final, _REPLACED)
    if replaced.is_dir() and final.exists():
        shutil.rmtree(replaced)
    elif replaced.is_dir():
        replaced.rename(final)
