"""Which model a component is of, and whether every tensor of it is there."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from mlx_video.config import ModelConfig, TextEncoderConfig, TransformerConfig, find_vae_config
from mlx_video.convert.recognise_transformers import stored_shapes
from mlx_video.errors import CheckpointError
from mlx_video.formats.tensor_source import TensorInfo, TensorSource
from mlx_video.inspect.inspection import FilePart
from mlx_video.layouts.checkpoint_files import told_name
from mlx_video.variants.other_models import PUBLISHED, digest_shapes
from mlx_video.variants.registry import HEAD_DIM, find_variant, recognise_checkpoint
from mlx_video.variants.variant import Variant
from mlx_video.weights.empty_weights import check_token_table
from mlx_video.weights.fix_5d_file import check_kernel
from mlx_video.weights.names import image_encoder_names, text_encoder_names, transformer_names, vae_names
from mlx_video.weights.quantize import dense_shapes
from mlx_video.weights.renamed import RenamedTensors
from mlx_video.weights.rules import plan_moves, target_shapes
from mlx_video.weights.scaled import dequantize
from mlx_video.weights.spellings import ComponentName, as_original, report_empty_table


def identify(
    part: FilePart, source: TensorSource, component: ComponentName, *, is_converted: bool
) -> FilePart:
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
        return _CONVERTED_READERS[component](part, source)
    published = _published_title(source)
    original = as_original(dequantize(source), component)
    if component == "transformer":
        check_kernel(original)
    notices = report_empty_table(source) if component == "text_encoder" else ()
    found = _READERS[component](replace(part, notices=(*part.notices, *notices)), original)
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
    network = found.config.transformer
    plan_moves(source, transformer_names.WAN_RULES, transformer_names.transformer_tensors(network))
    return _with_variant(part, found.variant, network)


def _with_variant(part: FilePart, variant: Variant, network: TransformerConfig) -> FilePart:
    has_branch = network.image_dim is not None
    return replace(part, model=variant.title, variant=variant.name, has_image_branch=has_branch)


def _read_text_encoder(part: FilePart, source: TensorSource) -> FilePart:
    found = text_encoder_names.read_text_encoder_config(source.infos, label=source.label)
    plan_moves(source, text_encoder_names.WAN_RULES, text_encoder_names.text_encoder_tensors(found))
    check_token_table(source)
    return replace(part, model=_describe_text_encoder(found))


def _describe_text_encoder(found: TextEncoderConfig) -> str:
    return f"UMT5 of {found.num_layers} blocks, width {found.dim}, {found.vocab_size} tokens"


def _read_image_encoder(part: FilePart, source: TensorSource) -> FilePart:
    found = image_encoder_names.read_image_encoder_config(source.infos, label=source.label)
    expected = image_encoder_names.image_encoder_tensors(found)
    plan_moves(source, image_encoder_names.wan_rules(found), expected)
    return replace(part, model=f"CLIP of width {found.width}")


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
    network = _read_converted_sizes(source)
    expected = target_shapes(transformer_names.transformer_tensors(network), transformer_names.WAN_RULES)
    missing = [name for name in expected if name not in source.infos]  # a packed weight keeps its name
    if missing:
        raise CheckpointError(
            f"{source.label}: {len(missing)} tensors missing, first {missing[0]}. Convert the model again."
        )
    vae = find_vae_config(network.out_dim)
    variant = find_variant(ModelConfig("", "2.1", network, vae=vae, is_dual=bool(part.expert)))
    return _with_variant(part, variant, network)


def _read_converted_sizes(source: TensorSource) -> TransformerConfig:
    """Sizes of a converted transformer, from its shapes alone."""
    bias = source.infos.get("patch_embedding_proj.bias")
    width = bias.shape[0] if bias is not None and bias.shape else 1
    shapes = dense_shapes(source.infos, "blocks.0.self_attn.q", width)
    patch = shapes.get("patch_embedding_proj.weight", ())
    rows, ffn = shapes.get("head.head.bias", ()), shapes.get("blocks.0.ffn.fc1.bias", ())
    if len(patch) != 2 or len(rows) != 1 or len(ffn) != 1:
        raise CheckpointError(
            f"{source.label}: patch_embedding_proj.weight, head.head.bias or blocks.0.ffn.fc1.bias is "
            "missing or misshapen. Convert the model again."
        )
    image_dim, positions = transformer_names.read_image_sizes(shapes)
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"blocks\.(\d+)\.", name))}
    return TransformerConfig(
        dim=patch[0],
        ffn_dim=ffn[0],
        num_heads=max(1, patch[0] // HEAD_DIM),
        num_layers=len(blocks),
        in_dim=patch[1] // transformer_names.PATCH_CELLS,
        out_dim=rows[0] // transformer_names.PATCH_CELLS,
        image_dim=image_dim,
        image_positions=positions,
    )


def _read_converted_vae(part: FilePart, source: TensorSource) -> FilePart:
    return replace(
        part, model=_describe_vae(RenamedTensors(source, vae_names.CONVERTED_RULES).infos, source.label)
    )


def _read_converted_text_encoder(part: FilePart, source: TensorSource) -> FilePart:
    found = text_encoder_names.read_text_encoder_config(source.infos, label=source.label)
    check_token_table(source)
    return replace(part, model=_describe_text_encoder(found))


def _read_converted_image_encoder(part: FilePart, source: TensorSource) -> FilePart:
    found = image_encoder_names.read_converted_image_encoder_config(source.infos, label=source.label)
    return replace(part, model=f"CLIP of width {found.width}")


_Reader = Callable[[FilePart, TensorSource], FilePart]
_READERS: Mapping[ComponentName, _Reader] = {
    "transformer": _read_transformer,
    "text_encoder": _read_text_encoder,
    "image_encoder": _read_image_encoder,
    "vae": _read_vae,
}
_CONVERTED_READERS: Mapping[ComponentName, _Reader] = {
    "transformer": _read_converted_transformer,
    "text_encoder": _read_converted_text_encoder,
    "image_encoder": _read_converted_image_encoder,
    "vae": _read_converted_vae,
}
