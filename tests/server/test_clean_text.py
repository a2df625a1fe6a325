from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mlx_video.errors import MediaError, RequestError
from mlx_video.server.clean_text import CleanTexts

TEXTS = CleanTexts([Path("/data/my models"), Path("/srv/out"), Path()])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/my models/wan/vae.safetensors: is damaged.", "vae.safetensors: is damaged."),
        ("in /data/my models.", "in my models."),
        (f"{Path.home()}/x/y.png (no file)", "y.png (no file)"),
        ("see '/etc/mlx/a.json', or /opt/b/", "see 'a.json', or a folder"),
        ("~/secret/c.png is missing", "c.png is missing"),
        (
            "1/2 of 3 s/step, width/height, https://example.com/a/b",
            "1/2 of 3 s/step, width/height, https://example.com/a/b",
        ),
        (f"video_{'0a' * 16}/image.png: no picture", "image.png: no picture"),
    ],
)
def test_places_of_the_machine_are_taken_out(text: str, told: str):
    assert TEXTS.clean(text) == told


def test_errors_for_people_are_told_and_others_only_that_they_happened():
    assert TEXTS.describe(RequestError("steps", "0: must be at least 1.")) == "steps: 0: must be at least 1."
    assert TEXTS.describe(MediaError("/srv/out/v/a.png: gone")) == "a.png: gone"
    assert "log" in TEXTS.describe(KeyError("/srv/secret"))
    assert "/srv" not in TEXTS.describe(FileNotFoundError(2, "no", "/srv/secret"))
    assert TEXTS.describe(OSError(errno.ENOSPC, "full", "/srv/x")) == "The server's disk is full."
    assert TEXTS.describe(RuntimeError("[malloc] cannot have 5 bytes")).startswith("Not enough memory")
