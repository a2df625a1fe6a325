"""A model of FastVideo's MLX folder: run as it is, with the recipe that it was distilled for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlx_video.config import ModelConfig, SamplingDefaults
from mlx_video.errors import CheckpointError, MissingPartError
from mlx_video.layouts.components import Component, list_parts
from mlx_video.layouts.fastvideo_folder import FastVideoFolder, open_fastvideo_folder
from mlx_video.layouts.folder_layout import FASTVIDEO_MANIFEST
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.model_parts import NO_PARTS, ModelParts
from mlx_video.loading.open_parts import open_transformer
from mlx_video.variants.distilled import FASTMETAL, adopt_family
from mlx_video.variants.registry import Recognition, read_original_shapes, recognise_checkpoint


def open_fastvideo_model(path: Path, parts: ModelParts = NO_PARTS) -> tuple[ModelFolder, ModelConfig]:
    """Open FastVideo's folder; of the weights, headers only.

    Args:
        path: the folder, or its `ema`.
        parts: what is to be taken from elsewhere.

    Returns:
        Its files; and its config, in which sizes of text encoder and VAE are still to be read.

    Raises:
        MissingPartError: it has no text encoder or VAE, and none is given.
        CheckpointError: a file is damaged, or the transformer is of no known model.
        ConfigError: the manifest is of another form.
    """
    files = open_fastvideo_folder(path)
    places = {**files.parts, **parts.given}
    missing = [row for row in list_parts() if row.is_needed and row.name not in places]
    if missing:
        raise MissingPartError(_describe_lack(path, missing))
    found = _recognise(files)
    sampling = adopt_family(FASTMETAL, found.config.sampling, found.variant.model_type)
    folder = ModelFolder(
        path=path,
        config={},
        transformers={"model": files.transformer},
        parts={name: place for name, place in places.items() if name != "tokenizer"},
        tokenizer=places.get("tokenizer"),
        notices=(*found.notices, *_report(files, sampling)),
    )
    return folder, replace(found.config, sampling=sampling)


def _describe_lack(path: Path, missing: list[Component]) -> str:
    folders = " and ".join(f"{row.folder}/" for row in missing)
    options = " and ".join(f"{row.flag} FILE" for row in missing)
    return (
        f"{path}: {folders} not found. Copy what is missing from the model's repository, or take it from any "
        f"Wan model, converted or not: {options}."
    )


def _recognise(files: FastVideoFolder) -> Recognition:
    """The model that the transformer is of; the manifest tells what no tensor does."""
    stated, place = files.manifest["config"], files.transformer.parent
    with open_transformer(files.transformer) as source:
        shapes, label = read_original_shapes(source.infos), source.label
    keys = {"num_attention_heads": "num_heads", "eps": "eps"}
    found = recognise_checkpoint(
        shapes, {ours: stated[theirs] for theirs, ours in keys.items() if theirs in stated}, label=label
    )
    blocks = files.manifest["num_blocks"]
    if found.config.transformer.num_layers != blocks:
        raise CheckpointError(
            f"{files.transformer}: holds {found.config.transformer.num_layers} blocks, "
            f"{place / FASTVIDEO_MANIFEST} says {blocks}. Copy the folder whole."
        )
    return found


def _report(files: FastVideoFolder, sampling: SamplingDefaults) -> Iterator[str]:
    manifest = files.transformer.parent / FASTVIDEO_MANIFEST
    yield (
        f"{manifest}: a model of FastVideo, distilled for the DMD sampler, which this version lacks. Its "
        f"defaults are {sampling.steps} steps, guide scale {sampling.guide_scale[0]:g} and shift "
        f"{sampling.shift:g}; of the samplers here --scheduler euler is the nearest."
    )
    if files.other:
        yield f"{files.other}: holds averaged weights of the same model; give this folder to use them."
