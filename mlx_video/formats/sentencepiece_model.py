"""The tokenizer that a GGUF file spells out in its metadata, as the bytes of a `spiece.model`.

The sentencepiece package reads such models and writes none; what is written here are the few fields that it
needs, without a dependency on protobuf.

Source: google/sentencepiece src/sentencepiece_model.proto; ggml-org/llama.cpp convert_hf_to_gguf.py, T5Model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import starmap
from typing import Any

# Where ComfyUI's text encoders hold the file, byte by byte.
TOKENIZER_TENSOR = "spiece_model"

_PREFIX = "tokenizer.ggml."
_FAMILY = f"{_PREFIX}model"
# What llama.cpp calls SentencePiece's unigram tokenizer, which T5 and UMT5 have.
_UNIGRAM = "t5"
_TOKENS, _SCORES, _KINDS = f"{_PREFIX}tokens", f"{_PREFIX}scores", f"{_PREFIX}token_type"
_NORMALIZATION = f"{_PREFIX}precompiled_charsmap"
_ADDS_SPACE, _REMOVES_SPACES = f"{_PREFIX}add_space_prefix", f"{_PREFIX}remove_extra_whitespaces"
LISTS = (_TOKENS, _SCORES, _KINDS, _NORMALIZATION)
# The same numbers in both formats.
_BYTE = 6

# Wire types of protobuf.
_VARINT, _LENGTH, _FLOAT = 0, 2, 5


def build_sentencepiece_model(metadata: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> bytes:
    """Put a unigram tokenizer together.

    Args:
        metadata: the single values of a GGUF file.
        lists: those of `LISTS` that it has; texts as bytes.

    Returns:
        What `spiece.model` would hold; empty if the file describes no such tokenizer, or not all of it: one
        without its normalization would number some texts differently.
    """
    if metadata.get(_FAMILY) != _UNIGRAM or not all(lists.get(key) for key in LISTS):
        return b""
    try:
        return _build(metadata, lists)
    except (ArithmeticError, AttributeError, TypeError, ValueError, struct.error):
        return b""  # lists of other types or lengths


def _build(metadata: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> bytes:
    tokens, scores, kinds = (lists[key] for key in (_TOKENS, _SCORES, _KINDS))
    packed = struct.iter_unpack("4s", struct.pack(f"<{len(scores)}f", *scores))
    pieces = b"".join(starmap(_piece, zip(tokens, packed, kinds, strict=True)))
    trainer = _tag(35, _VARINT) + b"\x01" if _BYTE in kinds else b""
    normalizer = b"".join(_normalizer(metadata, lists))
    return pieces + _message(2, trainer) + _message(3, normalizer)


def _piece(token: bytes, score: tuple[bytes], kind: int) -> bytes:
    return _message(1, _message(1, token) + _tag(2, _FLOAT) + score[0] + _tag(3, _VARINT) + _varint(kind))


def _normalizer(metadata: Mapping[str, Any], lists: Mapping[str, Sequence[Any]]) -> Iterator[bytes]:
    # Bytes, which some writers call signed.
    yield _message(2, bytes(number & 0xFF for number in lists[_NORMALIZATION]))
    for field, key in ((3, _ADDS_SPACE), (4, _REMOVES_SPACES)):
        if key in metadata:
            yield _tag(field, _VARINT) + _varint(int(bool(metadata[key])))


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, _LENGTH) + _varint(len(content)) + content


@cache
def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


@cache
def _varint(number: int) -> bytes:
    """A whole number, seven bits a byte, the lowest first; the highest bit says that more follow."""
    *more, last = (number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7))
    return bytes([*(part | 0x80 for part in more), last])
