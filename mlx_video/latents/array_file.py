"""Named arrays and texts in one safetensors file, which appears complete or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.errors import CheckpointError, MediaError
from mlx_video.files.unusable_paths import describe_apple_double, is_apple_double
from mlx_video.files.whole_file import written_whole
from mlx_video.formats.file_kind import FileKind, recognise
from mlx_video.formats.safetensors_header import CutShortError, DamagedHeaderError, read_header
from mlx_video.media.picture_kind import name_media

_LENGTH_BYTES = 8  # of the header's length, with which a safetensors file begins
_OTHER_KINDS: Mapping[FileKind, str] = {
    "zip": "a zip archive, perhaps of torch.save",
    "legacy_torch": "a torch file",
    "pickle": "a Python pickle",
    "gguf": "a GGUF file",
    "lfs_pointer": "a Git LFS pointer",
    "html": "an HTML page",
    "json": "JSON text",
    "empty": "an empty file",
}


def write_arrays(path: Path, arrays: Mapping[str, mx.array], texts: Mapping[str, str]) -> None:
    """Write arrays and texts; an earlier file of this name stays until the new one is complete.

    Args:
        path: final name, whatever its suffix; the folder is created.
        arrays: of any shape and dtype.
        texts: the file's metadata.

    Raises:
        MediaError: the file cannot be written.
    """
    try:
        # MLX insists on this suffix and would add it to any other name.
        with written_whole(path, ".safetensors") as temporary:
            mx.save_safetensors(str(temporary), dict(arrays), _valid_utf8(texts))
    except RuntimeError as error:  # how MLX reports a full disk
        raise MediaError(f"{path}: cannot be written ({error}). Check the free space.") from error


def read_arrays(path: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Read what `write_arrays` wrote.

    Args:
        path: the file, of any suffix.

    Returns:
        The arrays, evaluated, and the texts.

    Raises:
        MediaError: the file is damaged, or holds something else.
    """
    if path.is_file() and is_apple_double(path):
        raise MediaError(f"{path}: {describe_apple_double(path)}")
    try:
        if recognise(path) == "safetensors":
            read_header(path)  # MLX's own reader takes sizes beyond 32 bits, and tensors that overlap
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        arrays, texts = loaded
        mx.eval(arrays)  # the file is read here, so that later changes to it do no harm
    except (RuntimeError, ValueError, CheckpointError) as error:
        raise MediaError(f"{path}: no complete safetensors file{_explain(path, error)}") from error
    return dict(arrays), dict(texts)


def _explain(path: Path, error: Exception) -> str:
    """What is wrong with a file, by its content; `error` is what MLX stumbled over."""
    kind = recognise(path)
    what = "" if kind == "safetensors" else name_media(path) or _OTHER_KINDS.get(kind, "")
    if what:
        return f", but {what}. Give what --save-latents wrote, or the state of a run, *.state.safetensors."
    if (size := path.stat().st_size) <= _LENGTH_BYTES:
        return f": cut short, {size} bytes are there. Copy it again, or make it anew."
    try:
        read_header(path)
    except CutShortError as cut:
        return f": cut short, {cut.on_disk} of {cut.promised} are there. Copy it again, or make it anew."
    except DamagedHeaderError as damage:
        return f": damaged header, {damage.what}. Copy it again, or make it anew."
    except CheckpointError:
        pass  # it would advise to download what was never published
    return ": its header cannot be read. Copy it again, or make it anew."


def _valid_utf8(texts: Mapping[str, str]) -> dict[str, str]:
    """Half surrogates, which a terminal can hand over, are no UTF-8 and become question marks."""
    return {key: value.encode("utf-8", "replace").decode("utf-8") for key, value in texts.items()}
