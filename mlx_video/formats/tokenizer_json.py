"""A tokenizer.json, looked at before its library reads it: some faults would end the whole process there."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_video.errors import CheckpointError

_LENGTH_BYTES = 4


def check_tokenizer_json(path: Path, text: bytes) -> None:
    """Make sure that a tokenizer.json can be handed to its library.

    Args:
        path: for the message.
        text: its content.

    Raises:
        CheckpointError: it is no JSON object, or holds a map of characters that is cut or of another kind.
    """
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is no valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a JSON {type(content).__name__}, an object is expected")
    for charsmap in _charsmaps(content.get("normalizer")):
        _check_charsmap(path, charsmap)


def _charsmaps(normalizer: Any) -> Iterator[Any]:
    """Maps of characters of a normalizer, and of those it is a sequence of."""
    waiting = [normalizer]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "precompiled_charsmap" in one:
                yield one["precompiled_charsmap"]
            several = one.get("normalizers")
            waiting += several if isinstance(several, list) else []


def _check_charsmap(path: Path, charsmap: Any) -> None:
    """Source: google/sentencepiece src/normalizer.cc, Normalizer::DecodePrecompiledCharsMap."""
    if charsmap is None:
        return
    try:
        content = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise _damaged(path, f"its precompiled_charsmap is no base64 ({error})") from error
    trie_bytes = int.from_bytes(content[:_LENGTH_BYTES], "little")
    room = len(content) - _LENGTH_BYTES
    if content and (trie_bytes % 4 or not 0 < trie_bytes <= room):
        raise _damaged(path, f"its precompiled_charsmap states {trie_bytes:,} bytes of {max(0, room):,}")


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: cannot be read, {what}. Copy it again from the checkpoint.")
