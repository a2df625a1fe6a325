"""Tensors of a GGUF file, unpacked to float32 when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.files.file_bytes import read_at
from mlx_video.formats.gguf_header import BLOCKS, GgufTensor, read_gguf_header
from mlx_video.formats.sentencepiece_model import TOKENIZER_TENSOR
from mlx_video.formats.tensor_file import Placement, TensorFile, contiguous_strides, cut_rows
from mlx_video.formats.tensor_info import DTYPES, TensorInfo

# Elements unpacked at once: the package takes many times their bytes while it works. With fewer, threads
# beside it wait for the interpreter more than they work.
_PIECE = 1 << 18


class GgufFile(TensorFile):
    """A `TensorSource` over one GGUF file.

    Packed tensors are listed as F32, which is what reading them gives; the others as they are stored. Only
    plain tensors can be read into the caller's memory. A tokenizer in the metadata is listed as the tensor
    that ComfyUI's files have it in.

    Args:
        path: the file.

    Attributes:
        metadata: what the file says of itself, such as "general.architecture".

    Raises:
        CheckpointError: as `read_gguf_header`.
    """

    def __init__(self, path: Path) -> None:
        header = read_gguf_header(path)
        self.metadata = header.metadata
        plain = [tensor for tensor in header.tensors if tensor.kind in DTYPES]
        super().__init__(path, [_locate(tensor) for tensor in plain])
        self._packed = {tensor.name: tensor for tensor in header.tensors if tensor.kind not in DTYPES}
        self._tokenizer = header.build_tokenizer()
        infos = {tensor.name: _describe(tensor) for tensor in header.tensors}
        if self._tokenizer:
            infos[TOKENIZER_TENSOR] = TensorInfo(TOKENIZER_TENSOR, (len(self._tokenizer),), "U8")
        self.infos: Mapping[str, TensorInfo] = infos

    def read(self, name: str, rows: slice | None = None) -> mx.array:
        """Read a tensor, or consecutive rows of its first axis; packed ones are unpacked to float32.

        Args, Returns, Raises: as :meth:`TensorFile.read`.
        """
        if self._tokenizer and name == TOKENIZER_TENSOR:
            return mx.array(np.frombuffer(self._tokenizer, np.uint8)[rows or slice(None)])
        tensor = self._packed.get(name)
        if tensor is None:
            return super().read(name, rows)
        shape, first_row = cut_rows(self.infos[name], rows)
        first = first_row * math.prod(shape[1:])
        return mx.array(self._unpack(tensor, first, first + math.prod(shape)).reshape(shape))

    def read_into(self, name: str, memory: memoryview) -> None:
        """Read a whole tensor that is stored plain into memory of its type and shape.

        Args, Raises: as :meth:`TensorFile.read_into`; other tensors are a ValueError too.
        """
        if name in self.infos and name not in self._placements:
            raise ValueError(f"{self.label}: {name} is not stored as it is read")
        super().read_into(name, memory)

    def _unpack(self, tensor: GgufTensor, first: int, end: int) -> np.ndarray:
        """Elements of a packed tensor as float32; the blocks that hold them are read whole."""
        elements, size = BLOCKS[tensor.kind]
        begin, count = first // elements, -(-end // elements) - first // elements
        numbers = np.empty(count * elements, np.float32)
        for start in range(0, numbers.size, _PIECE):
            part = numbers[start : start + _PIECE]
            position = tensor.position + (begin + start // elements) * size
            packed = read_at(self._file, self.path, position, part.size // elements * size)
            part.reshape(-1, elements)[:] = _dequantize(tensor.kind, packed.reshape(-1, size))
        return numbers[first - begin * elements : end - begin * elements]


def _describe(tensor: GgufTensor) -> TensorInfo:
    return TensorInfo(tensor.name, tensor.shape, tensor.kind if tensor.kind in DTYPES else "F32")


def _locate(tensor: GgufTensor) -> Placement:
    return Placement(_describe(tensor), tensor.position, contiguous_strides(tensor.shape))


def _dequantize(kind: str, blocks: np.ndarray) -> np.ndarray:
    """Whole blocks, [blocks, bytes of one] uint8 → their elements, [blocks, elements of one] float32."""
    # An import for a package that only packed tensors need.
    from gguf import quants

    # The class of a type, not the package's own walk over rows: that one copies everything once more.
    decoder = getattr(quants, kind)
    decoder.init_grid()  # of the types that look numbers up in a table; done once
    # A damaged block may hold a scale that is no number; numbers are checked where they are written.
    with np.errstate(all="ignore"):
        numbers: np.ndarray = decoder.dequantize_blocks(blocks)
    return numbers
