"""A map of characters that a tokenizer cannot have is refused before a library reads it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from mlx_video.errors import CheckpointError
from mlx_video.formats.tokenizer_json import check_tokenizer_json


def check(charsmap: object) -> None:
    normalizer = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    content = {"normalizer": {"type": "Sequence", "normalizers": [normalizer]}}
    check_tokenizer_json(Path("tokenizer.json"), json.dumps(content).encode())


SOUND = base64.b64encode((4).to_bytes(4, "little") + bytes(8)).decode()


@pytest.mark.parametrize("charsmap", [None, "", SOUND])
def test_a_sound_map_is_let_through(charsmap: object):
    check(charsmap)


@pytest.mark.parametrize(
    ("charsmap", "message"),
    [
        (f"{SOUND[:8]}$$$${SOUND[8:]}", "is no base64"),
        (7, "is no base64"),
        (base64.b64encode((12).to_bytes(4, "little") + bytes(8)).decode(), "states 12 bytes of 8"),
        (base64.b64encode((3).to_bytes(4, "little") + bytes(8)).decode(), "states 3 bytes of 8"),
        (base64.b64encode(bytes(12)).decode(), "states 0 bytes of 8"),
    ],
)
def test_a_map_that_cannot_be_is_refused(charsmap: object, message: str):
    with pytest.raises(CheckpointError, match=message):
        check(charsmap)
