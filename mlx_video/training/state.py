"""The state of a training: all that later steps depend on, in one file that is whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from mlx_video.errors import CheckpointError, MediaError
from mlx_video.files.whole_file import written_whole
from mlx_video.formats.safetensors_header import read_header
from mlx_video.training.trainable import Values

STATE_FILE = "state.safetensors"
_KEY = "mlx_video.training_state"
_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training after some steps.

    Chance needs no more than the seed and the step: every draw is a function of both.

    Attributes:
        step: how many are taken.
        values: of the trained parameters.
        optimizer: what it remembers.
        average: the moving average; empty without one.
    """

    step: int
    values: Values
    optimizer: Values
    average: Values


_PARTS = ("values", "optimizer", "average")


def save_state(path: Path, state: TrainingState, identity: Mapping[str, str]) -> None:
    """Write a state; an older one is replaced at once when this is on the disk.

    Args:
        path: of the file.
        state: to keep.
        identity: what decides the training's numbers, as texts to compare.

    Raises:
        MediaError: the system refuses to write.
    """
    arrays = {f"{part}/{name}": array for part in _PARTS for name, array in getattr(state, part).items()}
    said = json.dumps({"version": _VERSION, "step": state.step, "identity": dict(identity)})
    with written_whole(path) as temporary:
        mx.save_safetensors(str(temporary), arrays, {_KEY: said})


def load_state(path: Path) -> tuple[TrainingState, dict[str, str]]:
    """Read a state and its identity.

    Raises:
        MediaError: the file cannot be read, or is no state.
    """
    try:
        said = json.loads(read_header(path).metadata[_KEY])
        if said["version"] != _VERSION:
            raise ValueError(f"version {said['version']}")
        arrays = cast(dict[str, mx.array], mx.load(str(path)))
        mx.eval(arrays)
    except (CheckpointError, KeyError, ValueError, RuntimeError) as error:
        raise MediaError(
            f"{path}: is no state of a training that this version reads ({error}). Begin anew "
            "without --resume."
        ) from error
    parts: dict[str, Any] = {part: {} for part in _PARTS}
    for name, array in arrays.items():
        part, _, own = name.partition("/")
        parts[part][own] = array
    return TrainingState(int(said["step"]), **parts), dict(said["identity"])
