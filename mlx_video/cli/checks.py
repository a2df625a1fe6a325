"""What options ask of the terminal, before anything is opened."""

from __future__ import annotations

import os
import sys

from mlx_video.errors import RequestError
from mlx_video.progress.terminal_pictures import find_protocol
from mlx_video.request import GenerateRequest
from mlx_video.request.kinds import TERMINAL


def check_terminal(request: GenerateRequest, *, is_shown: bool) -> None:
    """Refuse previews among the lines of a terminal that shows none.

    Raises:
        RequestError: the terminal is not known to show pictures, or there is none.
    """
    if request.preview != TERMINAL or not is_shown:
        return
    if not (sys.stderr and sys.stderr.isatty()):
        raise RequestError("preview", "terminal: stderr is no terminal. Give a file, such as preview.webp.")
    if find_protocol(os.environ) is None:
        raise RequestError(
            "preview",
            f"terminal: {os.environ.get('TERM') or 'this terminal'} is not known to show pictures; Kitty, "
            "Ghostty, WezTerm, iTerm2 and Konsole do, without tmux. Give a file, such as preview.webp.",
        )
