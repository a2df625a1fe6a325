"""What a checkpoint to be converted consists of, whatever layout it came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_video.files.hub_cache import published_name
from mlx_video.layouts.components import ORIGINAL_STEM, ROLES
from mlx_video.layouts.folder_layout import DIFFUSERS_TRANSFORMERS, EXPERT_FOLDERS

# Folders that hold one transformer of a checkpoint, which the folder above them names.
_TRANSFORMER_FOLDERS = (*EXPERT_FOLDERS.values(), *(role.folder for role in ROLES), *DIFFUSERS_TRANSFORMERS)

PartName = str
"""A transformer's role, or the name of another component."""


@dataclass(frozen=True, slots=True)
class SamplingHints:
    """What a checkpoint's small files say about sampling; None where they say nothing.

    Attributes:
        shift: the schedule's shift.
        boundary: the fraction of the schedule where two experts swap.
        expands_timesteps: whether every token has a timestep of its own, as in TI2V-5B.
        pipeline: the class that the checkpoint is saved for, "" if no file names it.
    """

    shift: float | None = None
    boundary: float | None = None
    expands_timesteps: bool | None = None
    pipeline: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The files of a checkpoint, all present; tensors may have any spelling.

    Attributes:
        path: the folder that the user gave.
        transformers: "model", or "low_noise" and "high_noise" → its weight files in shard order.
        transformer_configs: the same keys → its sizes as far as files state them, under the keys of the
            original config.json.
        parts: name of every other component but the VAE → its files, as far as it has any.
        vaes: name → the files of one VAE. Where several lie in the folder, the number of latent channels
            decides which one belongs to the transformer.
        tokenizer: the folder of the UMT5 tokenizer; None where the text encoder's file holds it, or nothing.
        vae_config: what a config.json says of the VAE; empty where there is none.
        hints: about sampling.
        names_transformers: whether what the folder is called tells of its transformers; not where the user
            gives others for all of them.
        notices: how the files were found, where their names do not tell.
        called: what the user says its publisher calls it; "" for nothing.
    """

    path: Path
    transformers: Mapping[str, tuple[Path, ...]]
    transformer_configs: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, tuple[Path, ...]]
    vaes: Mapping[str, tuple[Path, ...]]
    tokenizer: Path | None
    vae_config: Mapping[str, Any] = field(default_factory=dict)
    hints: SamplingHints = SamplingHints()
    names_transformers: bool = True
    notices: tuple[str, ...] = ()
    called: str = ""

    @property
    def text_encoder(self) -> tuple[Path, ...]:
        """The files of UMT5; empty where the user has it elsewhere."""
        return self.parts.get("text_encoder", ())

    @property
    def names(self) -> tuple[str, ...]:
        """What its publisher calls all transformers together: folder or repository, and pipeline."""
        names = (published_name(self.path), self.hints.pipeline) if self.names_transformers else ()
        return tuple(filter(None, names))

    @property
    def transformer_names(self) -> tuple[str, ...]:
        """Name of each transformer's file, or of the first of its shards."""
        return tuple(paths[0].name for paths in self.transformers.values())

    @property
    def told_names(self) -> tuple[str, ...]:
        """Everything that a publisher's name may be told by: of each transformer, and of the whole."""
        if self.called:
            return (self.called,)
        transformers = (told_name(paths[0]) for paths in self.transformers.values())
        return tuple(dict.fromkeys((*transformers, *self.names)))


def told_name(path: Path) -> str:
    """What a transformer is called: by its file, or by its folder where all files are called like it.

    Args:
        path: of the file, or of the first shard.
    """
    if not path.name.startswith(ORIGINAL_STEM):
        return path.name
    folder = path.parent
    return published_name(folder.parent if folder.name in _TRANSFORMER_FOLDERS else folder)
