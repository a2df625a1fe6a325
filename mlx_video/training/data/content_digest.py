"""What a file holds, as a short text: the same for copies, another for any change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError, DatasetError
from mlx_video.files.file_bytes import open_for_reading
from mlx_video.media.sources.picture_folder import list_pictures

_CHUNK_BYTES = 1 << 22


def digest_content(path: Path) -> str:
    """SHA-256 of a file; of a folder the names and contents of its pictures.

    Raises:
        DatasetError: it is missing, a pipe or a device, or cannot be read.
    """
    if path.is_dir():
        pictures = {picture.name: digest_content(picture) for picture in list_pictures(path)}
        return digest_value(pictures)
    digest = hashlib.sha256()
    try:
        with open_for_reading(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except CheckpointError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror}). Check the disk.") from error
    return digest.hexdigest()


def digest_value(value: Any) -> str:
    """SHA-256 of a value that JSON can hold; tuples count as lists."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
