"""The files that a run reads, by the options that name them: no result may take the place of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlx_video.layouts.model_folder import CONFIG_FILE, TOKENIZER_FILES, ModelFolder
from mlx_video.request import IMAGE_INPUTS, LORA_FIELDS, GenerateRequest

Named = tuple[str, Path]


def files_read(request: GenerateRequest, model: ModelFolder) -> Iterator[Named]:
    """Flags and paths of everything that a run opens; some of the paths may not exist.

    Args:
        request: with its adapters here.
        model: the converted folder.
    """
    for name in IMAGE_INPUTS:
        image = getattr(request, name)
        # An opened Pillow image knows its file, which need not be read to its end yet.
        if place := image if isinstance(image, Path) else getattr(image, "filename", None):
            yield f"--{name.replace('_', '-')}", Path(place)
    if request.decode_only:
        yield "--decode-only", request.decode_only
    for name in LORA_FIELDS:
        for choice in getattr(request, name):
            flag = f"--{name.replace('loras', 'lora').replace('_', '-')}"
            yield from ((flag, path) for path in _files_of(choice.path))
    yield from (("--model-dir", path) for path in _model_files(model))


def _files_of(place: Path) -> list[Path]:
    """An adapter's file, or all files of its folder."""
    return sorted(place.iterdir()) if place.is_dir() else [place]


def _model_files(model: ModelFolder) -> Iterator[Path]:
    yield model.path / CONFIG_FILE
    yield from model.transformers.values()
    yield from model.parts.values()
    yield from model.second_files.values()
    if model.tokenizer:
        yield from (model.tokenizer / name for name in TOKENIZER_FILES)
