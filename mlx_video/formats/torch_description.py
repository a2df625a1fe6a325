"""The pickle inside a torch archive: which tensors there are and where each lies. Nothing in it is run.

Source: pytorch torch/serialization.py, _save; torch/_utils.py, _rebuild_tensor_v2 and _rebuild_tensor_v3.
"""

from __future__ import annotations

import io
import pickle
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from mlx_video.errors import CheckpointError, UnknownFormatError
from mlx_video.formats.tensor_file import element_span
from mlx_video.limits import MOST_AXES

_STORAGE_DTYPES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}

# Newer types, whose storages are bare bytes; those of more than one byte have not been met in weights.
_FLOAT8_DTYPES = {"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0"}

# What training scripts put around the dictionary of tensors.
_WRAPPERS = ("state_dict", "model_state", "model", "module", "generator", "generator_ema")
_DEEPEST_WRAPPER = 4


# Named tuples, because a pickle may try to change any object it can reach, and these cannot be changed.
class _StorageType(NamedTuple):
    dtype: str


class _Float8(NamedTuple):
    dtype: str


class Storage(NamedTuple):
    """A run of elements that several tensors may share.

    Attributes:
        key: its member in the archive is `data/<key>`.
        dtype: safetensors spelling.
        length: elements.
    """

    key: str
    dtype: str
    length: int


class StoredTensor(NamedTuple):
    """A view of a storage; `offset` and `strides` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Builder(NamedTuple):
    """A function of ours that the pickle may name."""

    build: Callable[..., StoredTensor]

    def __call__(self, *arguments: object) -> StoredTensor:
        return self.build(*arguments)


def read_description(path: Path, text: bytes) -> dict[str, StoredTensor]:
    """Find the tensors that a pickle describes, inside the wrappers of training scripts if need be.

    Args:
        path: for the message.
        text: the pickle.

    Returns:
        Name → tensor, in the order of the file; each lies inside its storage.

    Raises:
        CheckpointError: the pickle names anything else than tensors and dictionaries, is damaged, or holds no
            model or several.
    """
    try:
        content = _DescriptionReader(path, text).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path}: data.pkl is damaged ({type(error).__name__}: {error}). Download the file again."
        ) from error
    return _unwrap(path, content)


def _build_tensor(
    storage: object, offset: object, shape: object, strides: object, *_: object
) -> StoredTensor:
    view = f"a tensor of shape {_show(shape)}, stride {_show(strides)} at {_show(offset)}"
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError(f"{view} has no storage")
    if not (_is_count(offset) and _are_counts(shape) and _are_counts(strides)):
        raise pickle.UnpicklingError(view)
    if len(shape) > MOST_AXES:
        raise pickle.UnpicklingError(f"a tensor of {len(shape):,} axes, at most {MOST_AXES} are read")
    if len(shape) != len(strides) or offset + element_span(shape, strides) > storage.length:
        raise pickle.UnpicklingError(f"{view} in a storage of {storage.length}")
    return StoredTensor(storage, offset, shape, strides)


def _build_float8_tensor(
    storage: object,
    offset: object,
    shape: object,
    strides: object,
    gradient: object,
    hooks: object,
    dtype: object,
    *_: object,
) -> StoredTensor:
    if not (isinstance(storage, Storage) and storage.dtype == "U8" and isinstance(dtype, _Float8)):
        raise pickle.UnpicklingError(f"a tensor of {_show(dtype)} in {_show(storage)}")
    return _build_tensor(storage._replace(dtype=dtype.dtype), offset, shape, strides)


def _build_parameter(tensor: object, *_: object) -> StoredTensor:
    if not isinstance(tensor, StoredTensor):
        raise pickle.UnpicklingError("a parameter without tensor")
    return tensor


def _show(value: object) -> str:
    """A value in few words; one that holds itself many times over would have no end else."""
    return reprlib.repr(value)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 2**63


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and all(_is_count(value) for value in values)


_ALLOWED: Mapping[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Builder(_build_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Builder(_build_float8_tensor),
    ("torch._utils", "_rebuild_parameter"): _Builder(_build_parameter),
    ("torch.storage", "UntypedStorage"): _StorageType("U8"),
    **{("torch", name): _Float8(dtype) for name, dtype in _FLOAT8_DTYPES.items()},
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()},
}


# All that torch.save writes. Left out are calls of classes, sets, bytes, and numbers of any length.
# Source: CPython Lib/pickletools.py, opcodes.
_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT "
    "SHORT_BINSTRING BINSTRING BINUNICODE SHORT_BINUNICODE EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE "
    "TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET MEMOIZE "
    "GLOBAL STACK_GLOBAL BINPERSID REDUCE BUILD"
).split()


class _Handlers(dict[int, Callable[[Any], None]]):
    """What each opcode does."""

    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise pickle.UnpicklingError(f"instruction {opcode}, which torch does not write, refused")


# Python's own unpickler, not the C one: that one reserves as much memory as a damaged file tells it to.
class _DescriptionReader(pickle._Unpickler):
    """Refuses every name outside `_ALLOWED` and every opcode outside `_OPCODES`; imports nothing."""

    dispatch = _Handlers(
        {
            code: handler
            for name in _OPCODES
            for code, handler in pickle._Unpickler.dispatch.items()
            if code == getattr(pickle, name)[0]
        }
    )

    def load_build(self) -> None:
        """Leave out the state of an object: a dictionary's is torch's note of versions."""
        self.stack.pop()  # type: ignore[attr-defined]
        if not isinstance(self.stack[-1], OrderedDict):  # type: ignore[attr-defined]
            raise pickle.UnpicklingError("a state for what is no dictionary")

    def load_setitem(self) -> None:
        """Put an item into a dictionary."""
        self._check_keys(self.stack[-2:])  # type: ignore[attr-defined]
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        """Put items into a dictionary."""
        self._check_keys(self.stack)  # type: ignore[attr-defined]
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        """Make a dictionary of items."""
        self._check_keys(self.stack)  # type: ignore[attr-defined]
        super().load_dict()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict

    def _check_keys(self, items: Sequence[object]) -> None:
        """Refuse keys that take for ever to hash: tuples that hold themselves many times over."""
        if not all(isinstance(key, str | int) for key in items[::2]):
            raise pickle.UnpicklingError("a key that is neither text nor number")

    def __init__(self, path: Path, text: bytes) -> None:
        super().__init__(io.BytesIO(text))
        self._path = path

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise UnknownFormatError(
                f"{self._path}: contains Python objects ({module}.{name}) besides tensors; refused, because "
                "loading them would run code from the file. Use a safetensors version."
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Storage:
        match pid:
            case ("storage", _StorageType(dtype), str(key), _, int(length)) if length >= 0:
                return Storage(key, dtype, length)
        raise pickle.UnpicklingError(f"unknown reference {_show(pid)}")


def _unwrap(path: Path, content: object) -> dict[str, StoredTensor]:
    for _ in range(_DEEPEST_WRAPPER):
        if not isinstance(content, dict):
            break
        if any(isinstance(value, StoredTensor) for value in content.values()):
            return _tensors_of(path, content)
        wrapper = _find_wrapper(path, content)
        if wrapper is None:
            break
        content = content[wrapper]
    raise UnknownFormatError(
        f"{path}: holds no dictionary of tensors but {_describe(content)}. "
        "Save the model's state_dict, or use a safetensors version."
    )


def _tensors_of(path: Path, content: Mapping[Any, object]) -> dict[str, StoredTensor]:
    """The tensors of a state dictionary; plain numbers and texts among them are left out."""
    for name, value in content.items():
        is_tensor = isinstance(value, StoredTensor)
        if not isinstance(name, str) or (isinstance(value, dict | list | tuple) and value and not is_tensor):
            raise UnknownFormatError(
                f"{path}: {_show(name)} lies among the tensors but is {_describe(value)}. "
                "Save the model's state_dict alone."
            )
    return {name: value for name, value in content.items() if isinstance(value, StoredTensor)}


def _find_wrapper(path: Path, content: Mapping[Any, object]) -> str | None:
    found = [name for name in _WRAPPERS if _holds_tensors(content.get(name), _DEEPEST_WRAPPER)]
    if "generator_ema" in found and "generator" in found:
        found.remove("generator")  # the averaged weights are the ones meant for use
    if len(found) > 1:
        raise CheckpointError(
            f"{path}: holds several models ({', '.join(found)}). "
            "Save one of them alone, or use a safetensors version."
        )
    return found[0] if found else None


def _holds_tensors(content: object, depth: int) -> bool:
    if not isinstance(content, dict) or not depth:
        return False
    if any(isinstance(value, StoredTensor) for value in content.values()):
        return True
    return any(_holds_tensors(content.get(name), depth - 1) for name in _WRAPPERS)


def _describe(content: object) -> str:
    if isinstance(content, StoredTensor):
        return "a single tensor"
    if isinstance(content, dict | list | tuple):
        shown = ", ".join(item[:40] if isinstance(item, str) else _show(item) for item in list(content)[:5])
        return f"a {type(content).__name__} of {len(content)} ({shown})"
    return f"a {type(content).__name__}"
