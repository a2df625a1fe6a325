"""What a run needs to go on from a step, in a file beside the video."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import __version__
from mlx_video.errors import CheckpointError, MediaError
from mlx_video.formats.safetensors_header import read_header
from mlx_video.latents.array_file import read_arrays, write_arrays
from mlx_video.latents.latents_file import STATE_KEY, TENSOR_NAME
from mlx_video.request import MAX_SEED, GenerateRequest

FORMAT = 1
_SOLVER = "solver."


@dataclass(frozen=True, slots=True, eq=False)
class RunState:
    """A run between two steps, or after its last one.

    Attributes:
        latents: [C, T, H, W], float32.
        next_step: counts from 0; equals `steps` when all are taken.
        steps: of the whole run.
        settings: of the run, as the finished video will hold them.
        identity: everything that decides the result: settings, and fingerprints of what was read.
        sampler: what sampling remembers, by part (see `sampling.sampler_state`).
        versions: of this package and of MLX.
    """

    latents: mx.array
    next_step: int
    steps: int
    settings: Mapping[str, str]
    identity: Mapping[str, str] = field(default_factory=dict)
    sampler: Mapping[str, mx.array] = field(default_factory=dict)
    versions: str = ""

    @property
    def is_finished(self) -> bool:
        """Whether its latents only wait to be decoded."""
        return self.next_step == self.steps

    @property
    def progress(self) -> str:
        """How far it is, for messages."""
        return f"{self.next_step} of {self.steps} steps"


def find_state_path(request: GenerateRequest) -> Path | None:
    """Where a run keeps its state: beside its video; None without a video's name."""
    path = request.output_path
    return path and path.with_name(f"{path.name}.state.safetensors")


def current_versions() -> str:
    """Versions of this package and of MLX."""
    return f"mlx-video {__version__}, mlx {mx.__version__}"  # type: ignore[attr-defined]  # not in the stubs


def save_state(path: Path, state: RunState) -> None:
    """Write a state; an earlier one stays until this one is complete and on the disk.

    Raises:
        MediaError: the file cannot be written.
    """
    record = {
        "format": FORMAT,
        "next_step": state.next_step,
        "steps": state.steps,
        "versions": current_versions(),
        "settings": dict(state.settings),
        "identity": dict(state.identity),
    }
    # The settings once more as plain texts, as other latents files have them: any tool can show these.
    texts = {**state.settings, STATE_KEY: json.dumps(record)}
    write_arrays(path, {TENSOR_NAME: state.latents, **state.sampler}, texts)


def load_state(path: Path) -> RunState:
    """Read what `save_state` wrote.

    Raises:
        MediaError: the file is damaged, holds something else, or a newer version wrote it.
    """
    arrays, texts = read_arrays(path)
    try:
        record = _read_record(path, texts)
        state = RunState(
            latents=arrays.pop(TENSOR_NAME),
            next_step=record["next_step"],
            steps=record["steps"],
            settings=record["settings"],
            identity=record["identity"],
            sampler=arrays,
            versions=record["versions"],
        )
        _check_texts(state)
        _check_arrays(state)
    except (KeyError, TypeError, ValueError) as error:
        raise MediaError(
            f"{path}: is no state of a run ({error!r}). Begin anew without --resume, or choose another file."
        ) from error
    return state


def _check_texts(state: RunState) -> None:
    """Refuse what `save_state` writes for no run.

    Raises:
        KeyError, TypeError, ValueError: a text or a number is absent, or something else.
    """
    if not (type(state.next_step) is type(state.steps) is int and 0 <= state.next_step <= state.steps):
        raise ValueError(f"{state.next_step!r} of {state.steps!r} steps")
    if not all(isinstance(texts, dict) for texts in (state.settings, state.identity)):
        raise TypeError("settings and identity must be texts with names")
    texts = (*state.settings.values(), *state.identity.values(), state.versions)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("settings, identity and versions must be texts")
    if not 0 <= int(state.settings["seed"]) <= MAX_SEED:
        raise ValueError(f"seed {state.settings['seed']}")


def _check_arrays(state: RunState) -> None:
    """Refuse arrays that are not latents where latents belong."""
    shape = state.latents.shape
    of_solver = (array for name, array in state.sampler.items() if name.startswith(_SOLVER))
    for array in (state.latents, *of_solver):
        if len(shape) != 4 or array.shape != shape or array.dtype != mx.float32:
            raise ValueError(f"an array is {array.dtype} {array.shape}, not float32 [C, T, H, W]")


def is_state(texts: Mapping[str, str]) -> bool:
    """Whether a latents file with these texts is the state of a run."""
    return STATE_KEY in texts


def is_state_file(path: Path) -> bool:
    """Whether `save_state` wrote a file, of any version; told by its header."""
    try:
        return is_state(read_header(path).metadata)
    except CheckpointError:
        return False


def _read_record(path: Path, texts: Mapping[str, str]) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(texts[STATE_KEY])
    if record["format"] != FORMAT:
        raise MediaError(
            f"{path}: has format {record['format']}, this version reads {FORMAT}. Update mlx-video, or begin "
            "anew without --resume."
        )
    return record
