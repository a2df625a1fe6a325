"""GGUF files written with the gguf package, one tensor of any type at a time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlx_video.formats.gguf_header import BLOCKS

PACKED = tuple(name for name, (elements, _) in BLOCKS.items() if elements > 1)
# The package cannot quantize these, only decode them.
DECODED_ONLY = tuple(name for name in PACKED if name.endswith("_K") or name.startswith("IQ"))
# Where the float16 scales of a block lie, which random bytes must not make infinite; mostly at its start.
_SCALES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ1_M": ()}


def pack(values: np.ndarray, kind: str) -> np.ndarray:
    """Values as the bytes of a type, [..., bytes of a row]; of some types the bytes are random instead."""
    from gguf import GGMLQuantizationType, quantize

    if kind not in DECODED_ONLY:
        return quantize(values, GGMLQuantizationType[kind]).view(np.uint8)
    elements, size = BLOCKS[kind]
    rng = np.random.default_rng(len(kind) + values.size)
    blocks = rng.integers(0, 256, (values.size // elements, size), dtype=np.uint8)
    if kind == "IQ1_M":
        blocks[:, 55] = blocks[:, 55] & 0x0F | 0x20  # the scale's first four bits
    for place in _SCALES.get(kind, (0,)):
        scales = (rng.uniform(0.001, 0.1, len(blocks))).astype(np.float16)
        blocks[:, place : place + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(*values.shape[:-1], -1)


def write_gguf(
    path: Path,
    tensors: Mapping[str, tuple[str, np.ndarray]],
    metadata: Mapping[str, Any] | None = None,
    architecture: str = "wan",
) -> Path:
    """Write a file.

    Args:
        path: the file to make.
        tensors: name → type and its bytes, [..., bytes of a row], as `pack` makes them.
        metadata: more entries: whole numbers, yes or no, texts, lists.
        architecture: what the file calls its model.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        else:
            writer.add_uint32(key, value)
    for name, (kind, data) in tensors.items():
        if kind in ("F32", "F16"):
            writer.add_tensor(name, data.view({"F32": np.float32, "F16": np.float16}[kind]))
        else:
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_metadata(model: bytes, normalization: bytes) -> dict[str, Any]:
    """What llama.cpp's converter writes of a SentencePiece model of T5's kind.

    Args:
        model: what spiece.model holds.
        normalization: the model's precompiled character map, which the package does not give out.
    """
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_proto=model)
    numbers = range(pieces.get_piece_size())
    marks = ((pieces.is_unknown, 2), (pieces.is_control, 3), (pieces.is_unused, 5), (pieces.is_byte, 6))
    metadata = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [pieces.id_to_piece(number) for number in numbers],
        "tokenizer.ggml.scores": [pieces.get_score(number) for number in numbers],
        "tokenizer.ggml.token_type": [
            next((kind for is_kind, kind in marks if is_kind(number)), 1) for number in numbers
        ],
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
        "tokenizer.ggml.eos_token_id": pieces.eos_id(),
        "tokenizer.ggml.add_eos_token": True,
    }
    # As a list of whole numbers: the converter writes bytes.
    return metadata | ({"tokenizer.ggml.precompiled_charsmap": list(normalization)} if normalization else {})
