"""Random tensors of every dtype, and the exact bits of an array whatever its dtype."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
from hypothesis import strategies as st

from mlx_video.formats.tensor_source import DTYPES, TensorInfo

WRITABLE = sorted(name for name, stored in DTYPES.items() if stored.mlx is not None)

shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@st.composite
def infos(draw):
    """A few tensors of different names."""
    chosen = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    return [TensorInfo(name, draw(shapes), draw(st.sampled_from(WRITABLE))) for name in chosen]


def random_words(info: TensorInfo, seed: int = 0) -> np.ndarray:
    """Random bits in the numpy dtype of the file; the tensor's values may be any, NaN included."""
    stored = DTYPES[info.dtype]
    raw = np.random.default_rng(seed).integers(0, 256, info.nbytes, dtype=np.uint8)
    if info.dtype == "BOOL":
        raw = raw % 2
    return raw.view(stored.words).reshape(info.shape)


def to_mlx(words: np.ndarray, dtype: str) -> mx.array:
    array = mx.array(words)
    return array.view(mx.bfloat16) if dtype == "BF16" else array


def bits(array: mx.array) -> bytes:
    """Bytes of an array, row after row."""
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array).tobytes()


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with any header, right or wrong; bytes stand for themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin: int, *shape: int, dtype: str = "F32") -> dict:
    """One tensor of a hand-made header."""
    end = begin + math.prod(shape) * DTYPES[dtype].size
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    path.write_bytes(raw_safetensors(header, data))
    return path
