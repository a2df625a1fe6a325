"""What clients are told of errors: clean texts that name no place on this machine."""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mlx_video.errors import MLXVideoError

# A path from the root with a folder at least; what follows a letter or a colon is a fraction or an address.
_PATH = re.compile(r"(?<![\w:/.~])~?/(?:[^\s/:;,'\"()<>|]+/)+([^\s/:;,'\"()<>|]*)")

# The folder of a video, under a name that says nothing to people.
_VIDEO_FOLDER = re.compile(r"\bvideo_[0-9a-f]{32}/")


class CleanTexts:
    """Takes the places of this machine out of texts.

    Args:
        folders: that may stand in texts, spaces and all; the last part of what lies in them stays.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        usual = (Path.home(), Path(tempfile.gettempdir()), Path.cwd())
        known = {str(folder.resolve()) for folder in (*folders, *usual)}
        # The longest first, so that none leaves the end of another.
        self._known = sorted(known - {"/"}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """A text with names in place of paths."""
        for folder in self._known:
            text = text.replace(f"{folder}/", "/./").replace(folder, Path(folder).name)
        text = _PATH.sub(lambda found: found[1] or "a folder", text)
        return _VIDEO_FOLDER.sub("", text)

    def describe(self, error: BaseException) -> str:
        """What a client is told of an error; of one that is not for people, that it happened."""
        if isinstance(error, MLXVideoError):
            return self.clean(str(error))
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return "The server's disk is full."
        if isinstance(error, MemoryError) or "malloc]" in str(error):  # the latter is how MLX reports it
            return "Not enough memory. Choose a smaller size or fewer frames."
        return "An unexpected error. The server's log has it."
