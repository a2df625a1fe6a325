"""Which model the transformers of a checkpoint are of, and whether two of them are a pair of experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from mlx_video.convert.original_component import original_component
from mlx_video.errors import CheckpointError, RequestError
from mlx_video.formats.tensor_source import TensorSource, open_tensors
from mlx_video.layouts.checkpoint_files import CheckpointFiles
from mlx_video.layouts.components import ROLES
from mlx_video.request import ConvertRequest
from mlx_video.variants.registry import VARIANTS, Recognition, recognise_checkpoint
from mlx_video.variants.variant import Variant
from mlx_video.weights.rules import Shape
from mlx_video.weights.spellings import have_equal_rows

# A transformer → what the user sees while it is written, and in messages.
STAGES = {role.name: role.option for role in ROLES}


def recognise_transformers(
    files: CheckpointFiles, transformers: Mapping[str, TensorSource], request: ConvertRequest
) -> Recognition:
    """Tell the variant from the transformers; two experts must be of one kind and size, but not one file.

    Args:
        files: what config.json says of each transformer.
        transformers: their tensors under the Wan original's names.
        request: the model version, if the user names one.

    Raises:
        CheckpointError: no variant fits, the experts are of different models, or they are the same file.
        ConfigError: config.json contradicts the tensors.
        RequestError: the user's model version contradicts the tensors, or the user's name for the model is
            that of none with such tensors.
    """
    found = {name: _recognise_one(files, transformers, name, request) for name in transformers}
    (first, recognition), *others = found.items()
    for name, other in others:
        if other.config != recognition.config:
            raise CheckpointError(
                f"{files.path}: {STAGES[first]} and {STAGES[name]} are different transformers "
                f"({_list_differences(recognition, other)}). Fetch both experts from the same repository."
            )
        _refuse_twins(files, transformers[first], transformers[name])
    _check_called(files, recognition.variant)
    return recognition


def _check_called(files: CheckpointFiles, variant: Variant) -> None:
    """Refuse a name of the user's that tells nothing."""
    if files.called and variant.names is None:
        names = ", ".join(each.title for each in VARIANTS if each.names)
        raise RequestError(
            "called",
            f"{files.called}: names no model with these tensors, which are those of {variant.title}. Names "
            f"tell {names}; leave the option out for others.",
        )


def _recognise_one(
    files: CheckpointFiles, transformers: Mapping[str, TensorSource], name: str, request: ConvertRequest
) -> Recognition:
    source = transformers[name]
    return recognise_checkpoint(
        {tensor: info.shape for tensor, info in source.infos.items()},
        files.transformer_configs[name],
        is_dual=len(transformers) > 1,
        model_version=request.model_version,
        label=source.label,
        names=files.told_names,
        stored=stored_shapes(source),
    )


def stored_shapes(source: TensorSource) -> dict[str, Shape]:
    """The shapes of a source's tensors under the names of its file."""
    return {info.stored_as or info.name: info.shape for info in source.infos.values()}


def refuse_other_models(files: CheckpointFiles) -> None:
    """Refuse transformers that are not run, before anyone fetches what else the checkpoint lacks.

    Args:
        files: other parts may be absent.

    Raises:
        CheckpointError: a transformer is damaged, or no variant fits it.
        ConfigError: config.json contradicts the tensors.
    """
    for name, paths in files.transformers.items():
        with open_tensors(paths) as stored:
            source = original_component(stored, "transformer")
            recognise_checkpoint(
                {tensor: info.shape for tensor, info in source.infos.items()},
                files.transformer_configs[name],
                label=source.label,
                names=files.told_names,
                stored=stored_shapes(source),
            )


def _list_differences(first: Recognition, second: Recognition) -> str:
    """Each size that differs with both values, the first one's first."""
    ours, theirs = first.config.transformer, second.config.transformer
    values = {field.name: (getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(ours)}
    different = [f"{name} {one} and {other}" for name, (one, other) in values.items() if one != other]
    return ", ".join(different) or f"{first.variant.title} and {second.variant.title}"


def _refuse_twins(files: CheckpointFiles, first: TensorSource, second: TensorSource) -> None:
    samples = [name for name in second.infos if name.endswith((".self_attn.q.weight", ".ffn.0.weight"))][:3]
    if samples and all(name in first.infos and have_equal_rows(first, second, name) for name in samples):
        raise CheckpointError(
            f"{files.path}: both experts are identical: the same file was given twice. "
            "Fetch the high-noise and the low-noise transformer again."
        )
