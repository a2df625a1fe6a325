"""The files that a run reads, by the options that name them: no result may take the place of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_video.layouts.folder_layout import CONFIG_FILE, TOKENIZER_FILES
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request import GenerateRequest, options_of
from mlx_video.request.kinds import ADAPTERS, FILE, IMAGE, PICTURES, VIDEO, Kind

Named = tuple[str, Path]


def files_read(request: GenerateRequest, model: ModelFolder) -> Iterator[Named]:
    """Flags and paths of everything that a run opens; some of the paths may not exist.

    Args:
        request: with its adapters here.
        model: the converted folder.
    """
    for name, declared in options_of(type(request)).items():
        yield from ((declared.flag, path) for path in _files_named(declared.kind, getattr(request, name)))
    yield from (("--model-dir", path) for path in _model_files(model))


def _files_named(kind: Kind, value: Any) -> Iterator[Path]:
    """Files that the value of an option names."""
    if kind is IMAGE:
        # An opened Pillow image knows its file, which need not be read to its end yet.
        place = value if isinstance(value, Path) else getattr(value, "filename", None)
        yield from [Path(place)] if place else []
    elif kind is PICTURES:
        yield from (path for picture in value for path in _files_named(IMAGE, picture))
    elif kind is VIDEO:
        places = value if isinstance(value, tuple) else [value]
        yield from (path for place in places if isinstance(place, Path) for path in _files_of(place))
    elif kind is FILE:
        yield from [value] if value else []
    elif kind is ADAPTERS:
        yield from (path for choice in value for path in _files_of(choice.path))


def _files_of(place: Path) -> list[Path]:
    """A file, or all files of a folder."""
    return sorted(place.iterdir()) if place.is_dir() else [place]


def _model_files(model: ModelFolder) -> Iterator[Path]:
    yield model.path / CONFIG_FILE
    yield from model.transformers.values()
    yield from model.parts.values()
    yield from model.second_files.values()
    if model.tokenizer:
        yield from (model.tokenizer / name for name in TOKENIZER_FILES)
