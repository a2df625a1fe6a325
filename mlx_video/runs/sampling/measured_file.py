"""Measured ratios in a file beside the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_video.errors import ConfigError
from mlx_video.files.whole_file import written_whole
from mlx_video.sampling.step_caches.measured import BranchRatios, Measurement

MEASURED_FILE = "magcache_ratios.json"
FORMAT = 1


def read_measured(folder: Path) -> tuple[Measurement, ...]:
    """Measurements that lie beside a model; none where there is no file.

    Raises:
        ConfigError: the file is damaged, or a newer version wrote it.
    """
    path = folder / MEASURED_FILE
    if not path.is_file():
        return ()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}, this version reads {FORMAT}")
        return tuple(map(_read_measurement, content["measurements"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: holds no measured ratios ({error!r}). Remove the file, and measure again with python "
            "-m mlx_video.calibrate if you like."
        ) from error


def _read_measurement(content: dict[str, Any]) -> Measurement:
    branches = {
        transformer: {prompt: _read_ratios(lists) for prompt, lists in prompts.items()}
        for transformer, prompts in content["branches"].items()
    }
    one = Measurement(**{**content, "branches": branches})
    if min(one.pixels, one.steps, one.prompts) < 1 or not branches:
        raise ValueError("a measurement of nothing")
    return one


def _read_ratios(lists: dict[str, Any]) -> BranchRatios:
    one = BranchRatios(**{name: tuple(map(float, values)) for name, values in lists.items()})
    if not one.ratios or min(one.ratios) <= 0:
        raise ValueError("ratios must be positive numbers")
    return one


def write_measured(folder: Path, measured: Sequence[Measurement]) -> Path:
    """Write measurements beside a model, in place of what the file held; gives its path.

    Raises:
        MediaError: the file cannot be written.
    """
    path = folder / MEASURED_FILE
    content = {"format": FORMAT, "measurements": [asdict(one) for one in measured]}
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
