"""Which model a component is of, and whether every tensor of it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlx_video.config import find_vae_config
from mlx_video.convert.recognise_transformers import stored_shapes
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource
from mlx_video.inspect.inspection import FilePart
from mlx_video.layouts.checkpoint_files import told_name
from mlx_video.layouts.components import list_parts
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.variants.registry import (
    Recognition,
    list_diffusers_rules,
    read_original_shapes,
    recognise_checkpoint,
)
from mlx_video.weights.component_networks import as_original, find_network, is_missed
from mlx_video.weights.names import vae_names
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import plan_moves
from mlx_video.weights.spellings import report_empty_table
from mlx_video.weights.stored.fix_5d_file import check_kernel
from mlx_video.weights.stored.scaled import dequantize


def identify(part: FilePart, source: TensorSource, component: str, *, is_converted: bool) -> FilePart:
    """Say which model a component is of, after checking its tensors.

    Args:
        part: what is known of it; the expert counts.
        source: its tensors as they are stored.
        component: what it is.
        is_converted: whether they are those of a converted file.

    Raises:
        CheckpointError: a tensor is missing, unknown or misshapen, or the component is of an unknown model.
        ConfigError: the sizes fit no network.
    """
    if is_converted:
        return _CONVERTED_READERS.get(component, _read_converted_part)(part, source)
    published = _published_title(source)
    original = as_original(dequantize(source), component, list_diffusers_rules())
    if component == "transformer":
        check_kernel(original)
    notices = report_empty_table(source) if component == "text_encoder" else ()
    found = _READERS.get(component, _read_part)(replace(part, notices=(*part.notices, *notices)), original)
    return replace(found, model=published or _published_title(original) or found.model)


def _published_title(source: TensorSource) -> str:
    return PUBLISHED.get(digest_shapes({name: info.shape for name, info in source.infos.items()}), "")


def _read_transformer(part: FilePart, source: TensorSource) -> FilePart:
    shapes = {name: info.shape for name, info in source.infos.items()}
    found = recognise_checkpoint(
        shapes,
        {},
        is_dual=bool(part.expert),
        label=source.label,
        names=(told_name(source.file_of(next(iter(shapes)))),),
        stored=stored_shapes(source),
    )
    config, network = found.config.transformer, found.variant.network
    plan_moves(source, network.rules, network.tensors(config))
    return _with_variant(part, found)


def _with_variant(part: FilePart, found: Recognition) -> FilePart:
    reads = tuple(row.name for row in list_parts() if is_missed(row, found.config))
    return replace(part, model=found.variant.title, variant=found.variant.name, reads=reads)


def _read_part(part: FilePart, source: TensorSource) -> FilePart:
    network = find_network(part.component)
    sizes = network.read_sizes(source.infos, label=source.label)
    network.plan_moves(source, sizes)
    network.check(source)
    return replace(part, model=network.describe(sizes))


def _read_converted_part(part: FilePart, source: TensorSource) -> FilePart:
    network = find_network(part.component)
    sizes = network.read_converted_sizes(source.infos, label=source.label)
    network.check(source)
    return replace(part, model=network.describe(sizes))


def _read_vae(part: FilePart, source: TensorSource) -> FilePart:
    found = vae_names.read_vae_config(source.infos, label=source.label)
    plan_moves(source, vae_names.conversion_rules(found), vae_names.vae_tensors(found))
    return replace(part, model=_describe_vae(source.infos, source.label))


def _describe_vae(names: Mapping[str, TensorInfo], label: str) -> str:
    channels = vae_names.read_latent_channels(names, label=label)
    halves = ("encoder", "decoder")
    lacking = [half for half in halves if not any(name.startswith(f"{half}.") for name in names)]
    texts = [f"VAE of {channels} latent channels", *(f"without its {half}" for half in lacking[:1])]
    scale = vae_names.read_output_scale(names, find_vae_config(channels))
    if scale != 1:
        texts.append(f"whose decoder makes frames {scale} times as wide and as high")
    return ", ".join(texts)


def _read_converted_transformer(part: FilePart, source: TensorSource) -> FilePart:
    shapes = read_original_shapes(source.infos)
    needed = ("patch_embedding.weight", "head.head.weight", "blocks.0.ffn.0.weight")
    if any(not shapes.get(name) for name in needed):
        raise CheckpointError(
            f"{source.label}: patch_embedding_proj.weight, head.head.weight or blocks.0.ffn.fc1.weight is "
            "missing or misshapen. Convert the model again."
        )
    found = recognise_checkpoint(shapes, {}, is_dual=bool(part.expert), label=source.label)
    config = found.config.transformer
    missing = [name for name in found.variant.network.parameters(config) if name not in source.infos]
    if missing:  # a packed weight keeps its name
        raise CheckpointError(
            f"{source.label}: {len(missing)} tensors missing, first {missing[0]}. Convert the model again."
        )
    return _with_variant(part, found)


def _read_converted_vae(part: FilePart, source: TensorSource) -> FilePart:
    return replace(
        part, model=_describe_vae(RenamedTensors(source, vae_names.CONVERTED_RULES).infos, source.label)
    )


_Reader = Callable[[FilePart, TensorSource], FilePart]
# The others are read alike.
_READERS: Mapping[str, _Reader] = {"transformer": _read_transformer, "vae": _read_vae}
_CONVERTED_READERS: Mapping[str, _Reader] = {
    "transformer": _read_converted_transformer,
    "vae": _read_converted_vae,
}
