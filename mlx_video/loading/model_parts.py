"""Components that take the place of a model folder's own: what the user names in options of a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mlx_video.errors import CheckpointError, RequestError
from mlx_video.events import Work
from mlx_video.files.unusable_paths import explain_missing
from mlx_video.hub.fetch import fetch_part
from mlx_video.layouts.components import find_component, list_parts
from mlx_video.layouts.folder_layout import find_tokenizer, recognise_layout
from mlx_video.layouts.model_folder import open_model_folder
from mlx_video.loading.found_files import read_component


@dataclass(frozen=True, slots=True)
class ModelParts:
    """What a run takes from elsewhere than its model folder.

    Attributes:
        text_encoder: UMT5: a file or a folder, converted or of any checkpoint.
        vae: the VAE, likewise.
        tiny_vae: a tiny decoder, likewise.
        tokenizer: a folder with tokenizer.json or spiece.model.
    """

    text_encoder: Path | None = None
    vae: Path | None = None
    tiny_vae: Path | None = None
    tokenizer: Path | None = None

    @property
    def given(self) -> dict[str, Path]:
        """Name → place of those that are named."""
        places = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: place for name, place in places.items() if place is not None}


NO_PARTS = ModelParts()


def parts_named(options: object) -> ModelParts:
    """The parts that options name.

    Args:
        options: a `ModelRequest`, or parsed arguments of one.
    """
    return ModelParts(**{field.name: getattr(options, field.name) for field in fields(ModelParts)})


def find_parts(parts: ModelParts) -> Work[ModelParts]:
    """Find the files of the parts, downloaded where they are named on the Hub, and check what they hold.

    Yields:
        What is downloaded, with its progress.

    Raises:
        RequestError: a part is missing or something else.
        CheckpointError: a file is damaged, or cannot be had.
    """
    found = {}
    for name, place in parts.given.items():
        here = yield from fetch_part(place, "tokenizer" if name == "tokenizer" else "component")
        found[name] = _find_tokenizer(here) if name == "tokenizer" else _find_weights(name, here)
    return ModelParts(**found)


def _find_weights(name: str, place: Path) -> Path:
    """The file of a component, or the folder of its shards."""
    if not place.exists():
        reason = explain_missing(place, "no such file or folder. Check the path.")
        raise RequestError(name, f"{place}: {reason}")
    if place.is_dir() and recognise_layout(place) == "converted":
        place = open_model_folder(place).parts[name]
    try:
        found = read_component(place)
    except CheckpointError as error:
        raise RequestError(name, str(error)) from error
    if name in found.kinds:
        return place if len(found.paths) < 2 else found.paths[0].parent
    what = f"holds no part of a Wan model (first tensor {found.first_tensor})"
    if found.kinds:
        other = next(iter(found.kinds.values()))
        flag = _flag_of(other.component)
        what = f"holds another part ({other.title})" + (f", which {flag} takes" if flag else "")
    raise RequestError(name, f"{place}: {what}. Give the file of the {find_component(name).words}.")


def _flag_of(component: str) -> str:
    """The option of a run that takes a component; "" where none does."""
    flags = {"transformer": "--model-dir", "adapter": "--lora"}
    flags |= {row.name: row.flag for row in list_parts() if row.is_needed}
    return flags.get(component, "")


def _find_tokenizer(place: Path) -> Path:
    folder = find_tokenizer(place)
    if folder is None:
        what = "holds neither tokenizer.json nor spiece.model. Give such a folder."
        raise RequestError("tokenizer", f"{place}: {explain_missing(place, what)}")
    return folder
