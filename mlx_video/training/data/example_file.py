"""An encoded example in a file: latents and conditioning as a run builds it, complete or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.errors import DatasetError, MediaError
from mlx_video.latents.array_file import read_arrays, write_arrays

LATENTS = "latents"
_STRUCTURE, _DIGEST = "mlx_video_example", "sha256"
_ROOM = "mlx_video.conditioning."
"""Where the records come from that a file may name."""

Fields = Mapping[str, object]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""Name and shape of each array, in the order of the names."""


def write_example(path: Path, latents: mx.array, conditioning: Fields, facts: Mapping[str, str]) -> None:
    """Write an example.

    Args:
        path: final name; the folder is created.
        latents: [C, T, H, W], float32.
        conditioning: fields of `Conditioning`, without those of texts.
        facts: what people may want to know of the file.

    Raises:
        MediaError: the disk is full, or takes no files.
        DatasetError: a field holds something that no file can.
    """
    arrays: dict[str, mx.array] = {}
    structure = {name: _take_apart(value, name, arrays) for name, value in conditioning.items()}
    arrays[LATENTS] = latents
    texts = {**facts, _STRUCTURE: json.dumps(structure), _DIGEST: _digest(arrays)}
    write_arrays(path, arrays, texts)


def read_example(path: Path) -> tuple[mx.array, dict[str, object]]:
    """Read what :func:`write_example` wrote: latents, and fields of `Conditioning`.

    Raises:
        MediaError: the file is damaged.
    """
    arrays, structure = _read(path)
    return arrays[LATENTS], {name: _put_together(part, arrays) for name, part in structure.items()}


def read_shapes(path: Path) -> Shapes:
    """Check an example's file, and tell the shapes of its arrays; raises as :func:`read_example`."""
    arrays, _ = _read(path)
    return tuple(sorted((name, tuple(array.shape)) for name, array in arrays.items()))


def _read(path: Path) -> tuple[dict[str, mx.array], dict[str, Any]]:
    if not path.exists():
        raise MediaError(f"{path}: not found. The same command makes it anew.")
    arrays, texts = read_arrays(path)
    if LATENTS not in arrays or _STRUCTURE not in texts or texts.get(_DIGEST) != _digest(arrays):
        raise MediaError(f"{path}: damaged, its content is not what was written. The same command mends it.")
    return arrays, json.loads(texts[_STRUCTURE])


def _digest(arrays: Mapping[str, mx.array]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(array.reshape(-1).view(mx.uint8), copy=False).data)
    return digest.hexdigest()


def _take_apart(value: Any, name: str, arrays: dict[str, mx.array]) -> Any:
    """A value as JSON; arrays in it go to `arrays`."""
    if isinstance(value, mx.array | np.ndarray):
        # MLX has no float64, in which paths of cameras are kept: their bytes are.
        is_wide = isinstance(value, np.ndarray) and value.dtype == np.float64
        kept = np.ascontiguousarray(value).view(np.uint32) if is_wide else value
        arrays[name] = mx.array(kept)
        return {"array": name, "numpy": str(value.dtype) if isinstance(value, np.ndarray) else None}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if isinstance(value, tuple):
        return {"tuple": [_take_apart(part, f"{name}.{i}", arrays) for i, part in enumerate(value)]}
    if is_dataclass(value) and type(value).__module__.startswith(_ROOM):
        parts = {
            field.name: _take_apart(getattr(value, field.name), f"{name}.{field.name}", arrays)
            for field in fields(value)
            if field.init
        }
        return {"record": [type(value).__module__, type(value).__name__], "fields": parts}
    raise DatasetError(
        f"{name}: {type(value).__name__} cannot be kept in a file yet, so that this input cannot be trained "
        "with. Leave it out of the dataset."
    )


def _put_together(part: Any, arrays: Mapping[str, mx.array]) -> Any:
    match part:
        case {"array": name, "numpy": None}:
            return arrays[name]
        case {"array": name, "numpy": dtype}:
            values = np.array(arrays[name])
            return values.view(np.float64) if dtype == "float64" else values
        case {"value": value}:
            return value
        case {"tuple": parts}:
            return tuple(_put_together(each, arrays) for each in parts)
        case {"record": [module, name], "fields": inner} if str(module).startswith(_ROOM):
            record = getattr(import_module(module), name)
            return record(**{key: _put_together(each, arrays) for key, each in inner.items()})
    raise DatasetError(f"an example's file holds {part!r}, which is nothing known. Delete the cache.")
