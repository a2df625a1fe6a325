"""Makes torch zip archives without torch, whole ones and damaged ones."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STORAGES = {
    "F32": ("FloatStorage", np.float32),
    "F16": ("HalfStorage", np.float16),
    "BF16": ("BFloat16Storage", np.uint16),
    "F64": ("DoubleStorage", np.float64),
    "I64": ("LongStorage", np.int64),
    "I32": ("IntStorage", np.int32),
    "I16": ("ShortStorage", np.int16),
    "I8": ("CharStorage", np.int8),
    "U8": ("ByteStorage", np.uint8),
    "BOOL": ("BoolStorage", np.bool_),
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle asks its reader to import."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call that the pickle asks its reader to make."""

    function: Global
    arguments: tuple


@dataclass(frozen=True, eq=False)
class Storage:
    key: str
    dtype: str
    words: np.ndarray
    length: int | None = None


class _ForeignPickler(pickle._Pickler):
    """Writes names and calls of modules that need not exist."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        length = obj.words.size if obj.length is None else obj.length
        return ("storage", Global("torch", STORAGES[obj.dtype][0]), obj.key, "cpu", length)

    def save_global_name(self, obj):
        self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj):
        self.save(obj.function)
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    dispatch[Global] = save_global_name
    dispatch[Call] = save_call


def foreign_pickle(content: object) -> bytes:
    """Protocol 2, as torch writes it."""
    buffer = io.BytesIO()
    _ForeignPickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def tensor(storage: Storage, shape: tuple, strides: tuple | None = None, offset: int = 0) -> Call:
    """What torch pickles for one tensor; strides count elements, row after row by default."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(
        rebuild, (storage, offset, shape, strides, False, Call(Global("collections", "OrderedDict"), ()))
    )


def whole_tensor(key: str, dtype: str, words: np.ndarray) -> Call:
    """A tensor with a storage of its own."""
    return tensor(Storage(key, dtype, words), words.shape)


def members_of(content: object) -> dict[str, bytes]:
    """The archive's members for a pickle of dictionaries and tensors."""
    members = {"archive/data.pkl": foreign_pickle(content), "archive/byteorder": b"little"}
    for storage in _storages_in(content):
        members[f"archive/data/{storage.key}"] = storage.words.tobytes()
    return members | {"archive/version": b"3\n"}


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_archive(path: Path, content: object) -> Path:
    return write_zip(path, members_of(content))


def _storages_in(content: object) -> list[Storage]:
    if isinstance(content, Storage):
        return [content]
    if isinstance(content, Call):
        return _storages_in(content.arguments)
    parts = content.values() if isinstance(content, Mapping) else content
    if isinstance(content, Mapping | tuple | list):
        return [storage for part in parts for storage in _storages_in(part)]
    return []
