"""How fast this machine was at earlier runs, in one small file of the cache folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_video.errors import MLXVideoError
from mlx_video.files.cache_folder import cache_folder
from mlx_video.files.whole_file import written_whole

VERSION = 1
MOST_KEYS = 200
FILE_NAME = "rates.json"

Rates = Mapping[str, float]
"""Name of something that takes time → its seconds."""


class RememberedRates:
    """Rates by what they depend on. The newest count; of too many keys the oldest go.

    They serve estimates alone: what cannot be read counts as nothing, and what cannot be written is lost.

    Args:
        path: of the file; None for that in the cache folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def find(self, key: str) -> Rates:
        """The rates of a key; none where there are none."""
        return self._read().get(key, {})

    def remember(self, key: str, rates: Rates) -> None:
        """Keep rates, in place of those of the same names."""
        kept = self._read()
        kept[key] = {**kept.pop(key, {}), **rates}
        newest = dict([*kept.items()][-MOST_KEYS:])
        with suppress(OSError, MLXVideoError), written_whole(self._file()) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, "rates": newest}), encoding="utf-8")

    def _file(self) -> Path:
        return self._path or cache_folder() / FILE_NAME

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            data = json.loads(self._file().read_text(encoding="utf-8"))
            rates = data["rates"] if data["version"] == VERSION else {}
            return {key: _checked(of_key) for key, of_key in rates.items()}
        except (OSError, MLXVideoError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}


def _checked(rates: Any) -> dict[str, float]:
    """Rates as they were written.

    Raises:
        ValueError, TypeError, AttributeError: they are something else.
    """
    checked = {name: float(seconds) for name, seconds in rates.items()}
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in checked.values()):
        raise ValueError("a rate is no time")
    return checked
