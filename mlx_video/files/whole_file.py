"""Files that appear under their final name complete, or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_video.errors import MediaError

_TEMPORARY_NAME = re.compile(r"\.partial-[0-9a-f]{12}(\..*)?")


def check_folder(folder: Path) -> None:
    """Create a folder where it is missing and prove that files can be written into it.

    Args:
        folder: will hold results.

    Raises:
        MediaError: it cannot be created, or takes no new file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A real file: permission bits alone say nothing about read-only disks.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise MediaError(
            f"{folder}: this folder cannot take new files ({reason}). Choose another one for the output."
        ) from error


def check_file(path: Path) -> None:
    """Make sure that a file of this name can be written; creates its folder.

    Raises:
        MediaError: the name is a folder's, or the folder above takes no files.
    """
    if path.is_dir():
        raise MediaError(f"{path}: is a folder, and a file needs this name. Choose another name.")
    check_folder(path.parent)


def temporary_sibling(path: Path, suffix: str | None = None) -> Path:
    """Name an unused hidden file in the folder of `path`, so that a rename to `path` stays on one disk.

    Args:
        path: the final name.
        suffix: extension of the temporary name; that of `path` by default.
    """
    return path.with_name(f".partial-{secrets.token_hex(6)}{path.suffix if suffix is None else suffix}")


@contextmanager
def held(temporary: Path) -> Iterator[None]:
    """Create a temporary file and mark it as being written, until the block or the process ends.

    Raises:
        OSError: the file cannot be made.
    """
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):  # some network disks have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of runs that were killed; those of running ones stay."""
    for path in folder.iterdir():
        if _TEMPORARY_NAME.fullmatch(path.name):
            with suppress(OSError):
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)


def publish(temporary: Path, path: Path) -> None:
    """Move a complete file to its final name; an earlier file of that name is replaced.

    Its content reaches the disk before its name does: a power cut leaves no name without a content.

    Raises:
        MediaError: the system refuses the rename; the temporary file is removed.
    """
    try:
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


@contextmanager
def written_whole(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """Give a temporary name to write to; afterwards it becomes `path`, or vanishes if anything was raised.

    Args:
        path: the final name; its folder is created.
        suffix: extension of the temporary name; that of `path` by default.

    Yields:
        The name to write to.

    Raises:
        MediaError: the system refuses to write.
    """
    temporary = temporary_sibling(path, suffix)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with held(temporary):
                yield temporary
                publish(temporary, path)
        finally:
            # Around everything: Ctrl-C can arrive while the file is made, and while it is closed.
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: OSError) -> MediaError:
    reason = error.strerror or error
    return MediaError(
        f"{path}: cannot be written ({reason}). Check the free space and the folder's permissions."
    )
