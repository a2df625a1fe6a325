"""Names of what is cached: they follow everything that decides it, so that a change is a new name."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.training.data.content_digest import digest_content, digest_value
from mlx_video.training.data.example_plan import Learner, PlannedExample
from mlx_video.training.data.model_inputs import named_files

CACHE_VERSION = 1
"""Of what this package makes of the same files; counted up with every change of it."""
_TEXTS_ALONE = ("text_encoder", "tiny_vae")
"""Parts of a model that no example depends on."""


def describe_learner(model: ModelFolder, learner: Learner) -> dict[str, Any]:
    """Everything of a model that decides its examples: its encoders, and what its transformer takes.

    Raises:
        CheckpointError: a file is damaged.
    """
    files = {name: path for name, path in model.parts.items() if name not in _TEXTS_ALONE}
    files |= {f"{name} 2": path for name, path in model.second_files.items() if name not in _TEXTS_ALONE}
    return {
        "version": CACHE_VERSION,
        "variant": learner.variant.name,
        "files": {name: fingerprint_weights(path) for name, path in sorted(files.items())},
        "vae": asdict(learner.config.vae),
        "transformer": asdict(learner.config.transformer),
    }


def key_of(
    example: PlannedExample, learner: Mapping[str, Any], fps: float, digests: MutableMapping[Path, str]
) -> str:
    """The name of an example's file.

    Args:
        example: as planned.
        learner: from :func:`describe_learner`.
        fps: that the model learns.
        digests: of contents that are known; others join them.

    Raises:
        DatasetError: a file cannot be read.
    """

    def content(path: Path) -> str:
        if path not in digests:
            digests[path] = digest_content(path)
        return digests[path]

    table, rule = example.table, example.table.frames
    values = {name: value for name, value in example.given.items() if isinstance(value, str | float)}
    facts = {
        "learner": learner,
        "clip": content(example.clip.path),
        "window": example.window,
        "rate": [rule.source_fps, rule.follows_file, fps],
        "size": example.size,
        "fit": table.fit,
        "files": [[name, content(path)] for name, path in named_files(example.given)],
        "values": values,
        "own_frames": example.own_frames,
        "one_frame": asdict(table.one_frame) if table.one_frame else None,
        "pads": table.pads_controls,
    }
    return digest_value(facts)
