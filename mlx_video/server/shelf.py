"""The models that a server offers: those of a folder, or the demo models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.convert.demo_model import DEMO_MODELS, DEMO_PROMPT, demo_model_folder
from mlx_video.errors import CheckpointError, MLXVideoError
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.components import open_model
from mlx_video.variants.registry import find_variant

Places = Callable[[], Mapping[str, Path]]
"""Gives names of models and their folders, as they are now."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a client is told of a model.

    Attributes:
        name: by which it is asked for.
        title: for people.
        takes: names of the inputs that it takes besides a prompt.
        needs: those of them without which it makes nothing.
        width, height, num_frames, steps, fps: what a video has if nothing else is asked for.
        frame_step: one frame and a multiple of this is what a video may have.
        example: a prompt that it can follow.
    """

    name: str
    title: str
    takes: tuple[str, ...]
    needs: tuple[str, ...]
    width: int
    height: int
    num_frames: int
    steps: int
    fps: int
    frame_step: int
    example: str = ""

    def suits(self, given: frozenset[str]) -> bool:
        """Whether it makes a video of these inputs."""
        return given <= {*self.takes} and {*self.needs} <= given


class ModelShelf:
    """Finds models by their names.

    Args:
        places: where they are.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def place(self, name: str) -> Path | None:
        """The folder of a model; None where there is none of this name."""
        return self._places().get(name)

    def open(self, name: str) -> tuple[ModelFolder, ModelConfig]:
        """Open a model; no weight is read.

        Raises:
            CheckpointError: there is none of this name, or it is incomplete.
            ConfigError: its config.json cannot be used.
        """
        place = self.place(name)
        if place is None:
            raise CheckpointError(f"{name}: no model of this name is here any more.")
        return open_model(place)

    def cards(self) -> list[ModelCard]:
        """The models that can be opened, by their names."""
        return [card for name in sorted(self._places()) if (card := self._card(name)) is not None]

    def _card(self, name: str) -> ModelCard | None:
        try:
            _, config = self.open(name)
            variant = find_variant(config)
        except MLXVideoError as error:
            log.warning("%s is not offered. %s", name, error)
            return None
        inputs, defaults = variant.inputs, config.sampling
        has_few_prompts = variant.remark_on_prompt is not None
        return ModelCard(
            name,
            variant.title,
            takes=tuple(each for each in inputs.all if each != "prompt"),
            needs=tuple(each for each in inputs.required if each != "prompt"),
            width=defaults.width,
            height=defaults.height,
            num_frames=defaults.num_frames,
            steps=defaults.steps,
            fps=defaults.fps,
            frame_step=config.vae.stride[0],
            example=DEMO_PROMPT if has_few_prompts else "",
        )


def demo_places() -> Places:
    """The demo models, converted now if no earlier run did."""
    places = {model.name: demo_model_folder(model) for model in DEMO_MODELS}
    return lambda: places


def places_in(folder: Path) -> Places:
    """The models in a folder of models, or the one whose folder it is.

    Raises:
        CheckpointError: there is none.
    """

    def find() -> Mapping[str, Path]:
        if (folder / "config.json").is_file():
            return {folder.resolve().name: folder}
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {each.name: each for each in found if (each / "config.json").is_file()}

    if not find():
        raise CheckpointError(
            f"{folder}: holds no converted model. Name a folder of model folders, or one of these."
        )
    return find
