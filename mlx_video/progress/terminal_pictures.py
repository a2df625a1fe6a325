"""Pictures among the lines of a terminal, for terminals that show them.

Source: sw.kovidgoyal.net/kitty/graphics-protocol (Kitty); iterm2.com/documentation-images.html (iTerm2).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


Protocol = Literal["kitty", "iterm2"]
ROWS = 8
"""Lines of text that a picture is high."""
CHUNK_CHARACTERS = 4096
_KITTY_PROGRAMS = ("ghostty", "kitty")
_ITERM2_PROGRAMS = ("iTerm.app", "WezTerm")


def find_protocol(environment: Mapping[str, str]) -> Protocol | None:
    """How the terminal of an environment takes pictures; None for one that shows none, as far as it tells.

    Inside tmux and screen there are none: what stands between passes no pictures on by itself.
    """
    program, terminal = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "TMUX" in environment or terminal.startswith(("screen", "tmux")):
        return None
    if "KITTY_WINDOW_ID" in environment or "KONSOLE_VERSION" in environment:
        return "kitty"
    if program in _KITTY_PROGRAMS or terminal in ("xterm-kitty", "xterm-ghostty"):
        return "kitty"
    if program in _ITERM2_PROGRAMS or environment.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return None


def picture_text(picture: np.ndarray, protocol: Protocol) -> str:
    """What shows a picture when it is printed.

    Args:
        picture: uint8 [H, W, 3].
        protocol: of the terminal.
    """
    from mlx_video.media.preview_file import encode_png  # NumPy and Pillow, which --help does without

    png = encode_png(picture)
    data = base64.standard_b64encode(png).decode("ascii")
    if protocol == "iterm2":
        return f"\x1b]1337;File=inline=1;size={len(png)};height={ROWS};preserveAspectRatio=1:{data}\a"
    return "".join(_kitty_parts(data))


def _kitty_parts(data: str) -> Iterator[str]:
    """The picture in pieces, of which the last says so; shown at once, and never answered."""
    chunks = [data[start : start + CHUNK_CHARACTERS] for start in range(0, len(data), CHUNK_CHARACTERS)]
    for index, chunk in enumerate(chunks):
        head = f"a=T,f=100,q=2,r={ROWS}," if index == 0 else ""
        yield f"\x1b_G{head}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
