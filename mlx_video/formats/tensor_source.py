"""One view over the tensors of one or many files, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, Self

import mlx.core as mx

from mlx_video.errors import CheckpointError
from mlx_video.formats.file_kind import recognise, refusal
from mlx_video.formats.gguf_file import GgufFile
from mlx_video.formats.safetensors import SafetensorsFile
from mlx_video.formats.tensor_info import DTYPES, FLOAT_DTYPES, StoredType, TensorInfo, dtype_name
from mlx_video.formats.torch_pickle import TorchArchive

__all__ = [
    "DTYPES",
    "FLOAT_DTYPES",
    "StoredType",
    "TensorInfo",
    "TensorSource",
    "TensorView",
    "dtype_name",
    "open_tensors",
]


class TensorSource(Protocol):
    """Named tensors on disk, each read when asked for. Use it as a context manager, or call `close`.

    Attributes:
        label: what messages call it.
        infos: name → shape and dtype, in the order of the files.
    """

    label: str
    infos: Mapping[str, TensorInfo]

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        ...

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or consecutive rows of its first axis; nothing else is read.

        Any thread may ask; what has to be computed is left to whoever evaluates the array.

        Args:
            name: a key of `infos`.
            rows: which rows of axis 0, step 1; None for the whole tensor.

        Returns:
            The tensor in its stored dtype; float64 and 8-bit floats come as float32.

        Raises:
            CheckpointError: the file ends early.
            KeyError: there is no tensor of this name.
            ValueError: `rows` has a step, or the tensor is a scalar.
        """
        ...

    def close(self) -> None:
        """Close the files; arrays read from them stay valid."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class TensorView:
    """What a `TensorSource` over others needs not write itself.

    Args:
        sources: closed with this one; the first gives its label.
    """

    def __init__(self, *sources: TensorSource) -> None:
        self._sources = sources
        self.label = sources[0].label

    def close(self) -> None:
        """Close the other sources; arrays read from them stay valid."""
        for source in self._sources:
            source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tensors(paths: Path | Sequence[Path]) -> TensorSource:
    """Open the files of one component as one set of tensors.

    The reader is chosen by what a file holds, not by its name.

    Args:
        paths: one file, or all shards.

    Returns:
        A source to be closed by the caller.

    Raises:
        CheckpointError: a file is missing, damaged or of an unknown format, or a tensor lies in two files.
        ValueError: `paths` is empty.
    """
    if isinstance(paths, Path):
        return _open_file(paths)
    if not paths:
        raise ValueError("no files to open")
    with ExitStack() as opened:
        sources = [opened.enter_context(_open_file(path)) for path in paths]
        shards = sources[0] if len(sources) == 1 else _Shards(sources)
        opened.pop_all()
    return shards


def _open_file(path: Path) -> TensorSource:
    kind = recognise(path)
    if kind == "safetensors":
        return SafetensorsFile(path)
    if kind == "zip":
        return TorchArchive(path)
    if kind == "gguf":
        return GgufFile(path)
    raise refusal(path, kind)


class _Shards(TensorView):
    """A `TensorSource` over several files."""

    def __init__(self, sources: Sequence[TensorSource]) -> None:
        super().__init__(*sources)
        self._by_name: dict[str, TensorSource] = {}
        for source in sources:
            for name in source.infos:
                self._add(name, source)
        self.infos: Mapping[str, TensorInfo] = {
            name: source.infos[name] for name, source in self._by_name.items()
        }
        self.label = f"{sources[0].label} and {len(sources) - 1} more"

    def _add(self, name: str, source: TensorSource) -> None:
        other = self._by_name.setdefault(name, source)
        if other is not source:
            raise CheckpointError(
                f"{name} is in {other.file_of(name)} and in {source.file_of(name)}. "
                "Keep the files of one download only."
            )

    def file_of(self, name: str) -> Path:
        return self._source_of(name).file_of(name)

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        return self._source_of(name).read(name, rows)

    def _source_of(self, name: str) -> TensorSource:
        if name not in self._by_name:
            raise KeyError(f"{self.label} has no tensor {name!r}")
        return self._by_name[name]
