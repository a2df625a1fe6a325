"""Pictures in a terminal: which terminals take them, what is printed, and what is refused."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from mlx_video.cli import generate
from mlx_video.events import PreviewMade
from mlx_video.generate_wan import main
from mlx_video.progress.bars import Bars
from mlx_video.progress.terminal_pictures import CHUNK_CHARACTERS, find_protocol, picture_text

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_in(text: str, protocol: str) -> np.ndarray:
    """The picture that a terminal would find."""
    if protocol == "kitty":
        parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
        assert [part[0][-1] for part in parts] == ["1"] * (len(parts) - 1) + ["0"]
        assert max(len(part[1]) for part in parts) <= CHUNK_CHARACTERS
        assert parts[0][0].startswith("a=T,f=100,q=2,")
        data = "".join(part[1] for part in parts)
    else:
        (data,) = re.findall(r"\x1b\]1337;File=inline=1;[^:]*:([^\a]*)\a", text)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "KONSOLE_VERSION": "230804"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "tmux", "LC_TERMINAL": "iTerm2"}, None),
        ({"TERM": "screen", "KITTY_WINDOW_ID": "1"}, None),
        ({}, None),
    ],
)
def test_a_terminal_is_told_by_its_environment(environment: dict[str, str], protocol: str | None):
    assert find_protocol(environment) == protocol


@pytest.mark.parametrize("protocol", ["kitty", "iterm2"])
def test_what_is_printed_holds_the_picture(protocol):
    text = picture_text(PICTURE, protocol)
    assert np.array_equal(shown_in(text, protocol), PICTURE)
    assert text.isascii()
    assert "\n" not in text


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("TMUX", "KITTY_WINDOW_ID", "KONSOLE_VERSION", "TERM_PROGRAM", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return monkeypatch


def test_a_terminal_shows_previews_that_have_no_file(clean_environment: pytest.MonkeyPatch, tmp_path):
    clean_environment.setenv("KITTY_WINDOW_ID", "1")
    stream = Terminal()
    frames = np.stack([PICTURE] * 2)
    with Bars(stream) as bars:
        bars.show(PreviewMade(0, 2, frames, 4.0, tmp_path / "growing.png"))
        assert stream.getvalue() == ""
        bars.show(PreviewMade(0, 2, frames, 4.0))
    assert shown_in(stream.getvalue(), "kitty").shape == (213, 640, 3)


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (io.StringIO, "--preview terminal: stderr is no terminal. Give a file, such as preview.webp."),
        (Terminal, "--preview terminal: xterm-256color is not known to show pictures; Kitty,"),
    ],
)
def test_a_terminal_that_shows_none_is_refused_before_the_model_is_opened(
    clean_environment: pytest.MonkeyPatch, stream: type[io.StringIO], text: str
):
    written = stream()
    clean_environment.setattr("sys.stderr", written)
    clean_environment.setattr(generate, "open_model_of", lambda *_, **__: pytest.fail("opened"))
    assert main(["--prompt", "a cat", "--preview", "terminal"]) == 2
    assert text in written.getvalue()
