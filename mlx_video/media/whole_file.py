"""Files that appear under their final name complete, or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_video.errors import MediaError


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


def publish(temporary: Path, path: Path) -> None:
    """Move a complete file to its final name; an earlier file of that name is replaced.

    Raises:
        MediaError: the system refuses the rename; the temporary file is removed.
    """
    try:
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
            yield temporary
            publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> MediaError:
    reason = error.strerror or error
    return MediaError(
        f"{path}: cannot be written ({reason}). Check the free space and the folder's permissions."
    )
