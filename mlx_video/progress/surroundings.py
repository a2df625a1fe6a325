"""Which display suits where the work goes on."""

from __future__ import annotations

import io
import sys

from mlx_video.progress.bars import Bars
from mlx_video.progress.display import Display
from mlx_video.progress.json_lines import JsonLines
from mlx_video.progress.lines import Lines
from mlx_video.progress.notebook import NotebookArea, is_in_notebook


def choose_display(*, is_quiet: bool = False, as_json: bool = False) -> Display:
    """A display for these surroundings: a notebook, a terminal, or a file or pipe behind stderr.

    Args:
        is_quiet: whether to show nothing.
        as_json: whether to show JSON, wherever it goes.
    """
    if is_quiet:
        return Display()
    if as_json:
        return JsonLines()
    if is_in_notebook():
        return NotebookArea()
    stream = sys.stderr or io.StringIO()  # a closed stderr is None
    return Bars(stream) if stream.isatty() else Lines(stream)
