"""Adapter files matched against a transformer: what each changes, checked before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlx_video.checkpoint.hub_cache import published_name
from mlx_video.config import TransformerConfig
from mlx_video.errors import AdapterError
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.changes import Change
from mlx_video.lora.dialects import AdapterKey, Spellings, is_diffusers, parse_key
from mlx_video.lora.families import explain_unmatched, guess_expert, guess_family
from mlx_video.lora.layers import AdapterLayer, LayerChanges, build_changes, input_channels
from mlx_video.lora.report import describe, describe_unmatched, warn_of_expert, warn_of_scale
from mlx_video.lora.scaling import read_scaling
from mlx_video.request import LoraChoice
from mlx_video.weights.adapter_names import Role
from mlx_video.weights.rules import Shape, target_shapes
from mlx_video.weights.transformer_names import WAN_RULES, transformer_tensors

__all__ = ["AdapterSet", "read_adapters", "transformer_shapes"]

Unmatched = list[tuple[AdapterKey, str]]


def transformer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Name and dense shape of every parameter of our transformer."""
    return target_shapes(transformer_tensors(config), WAN_RULES)


def read_adapters(
    choices: Sequence[LoraChoice],
    shapes: Mapping[str, Shape],
    *,
    strict: bool = False,
    transformer: str = "model",
) -> AdapterSet:
    """Find out what adapters do to one transformer; only headers, metadata and alphas are read.

    Args:
        choices: files and strengths, in the order in which they count.
        shapes: the transformer's parameters, as :func:`transformer_shapes` gives them.
        strict: refuse a file of which a part fits nothing, instead of saying so in a notice.
        transformer: which one it is, "model", "high_noise" or "low_noise"; for the notices.

    Raises:
        AdapterError: a file is absent, fits nothing in the transformer, fits in part under `strict`, is of a
            kind that cannot be applied, or its tensors do not fit each other or the transformer.
        CheckpointError: a file is damaged or no weight file.
    """
    changes: dict[str, list[Change]] = {}
    notices: list[str] = []
    for choice in choices:
        if choice.strength == 0:
            notices.append(f"{published_name(choice.path)}: strength 0, left out.")
            continue
        layers, of_file = _read_file(choice, shapes, strict, transformer)
        notices += of_file
        for layer in layers.values():
            for name, of_name in layer.changes.items():
                changes.setdefault(name, []).extend(of_name)
    # In the transformer's order, so that applying goes block by block.
    return AdapterSet({name: changes[name] for name in shapes if name in changes}, notices)


def _read_file(
    choice: LoraChoice, shapes: Mapping[str, Shape], strict: bool, transformer: str
) -> tuple[dict[str, LayerChanges], list[str]]:
    file = AdapterFile(choice.path)
    keys = [parse_key(name) for name in file.infos]
    if not any(key.role for key in keys):
        raise AdapterError(
            f"{file.label}: holds no adapter: its {len(keys)} keys are whole weights or something else "
            f"({_first(keys)}). Give a LoRA file; a whole model is converted with convert_wan."
        )
    found, unmatched = _match(file, keys, shapes)
    unmatched += _leave_out_narrow_input(found)
    if not found:
        raise AdapterError(
            f"{file.label}: none of {len(keys)} keys matched the transformer ({_first(keys)}). It looks made "
            f"for {guess_family(keys)}. Use an adapter for this model."
        )
    if unmatched and strict:
        text = describe_unmatched(file, unmatched)
        raise AdapterError(
            f"{text} Leave out --strict-lora to use the rest, or take an adapter of this model."
        )
    scaling = read_scaling(file)
    layers = {layer.path: build_changes(layer, scaling, choice.strength) for layer in found.values()}
    notices = [
        describe(file, keys, layers, choice.strength),
        *([describe_unmatched(file, unmatched)] if unmatched else []),
        *warn_of_scale(file, layers.values(), choice.strength),
        *warn_of_expert(file, guess_expert(Path(file.label).stem, keys), transformer),
    ]
    return layers, notices


def _first(keys: Sequence[AdapterKey]) -> str:
    return f"first: {', '.join(key.name for key in keys[:3])}" if keys else "it is empty"


def _match(
    file: AdapterFile, keys: Sequence[AdapterKey], shapes: Mapping[str, Shape]
) -> tuple[dict[str, AdapterLayer], Unmatched]:
    """Group a file's tensors by the layer they change."""
    spellings = Spellings(tuple(shapes), diffusers=is_diffusers(keys))
    num_blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    grouped: dict[str, dict[Role, AdapterKey]] = {}
    unmatched: Unmatched = []
    for key in keys:
        path = spellings.find(key) if key.role else None
        if key.role is None or path is None:
            unmatched.append((key, explain_unmatched(key, num_blocks)))
            continue
        # A modulation is no layer's: a delta of it is the delta of a weight.
        role: Role = "diff" if key.role == "diff_m" else key.role
        other = grouped.setdefault(path, {}).setdefault(role, key)
        if other is not key:
            raise AdapterError(
                f"{file.label}: {path}: {other.name} and {key.name} are the same part of two adapters. "
                "Give a file that holds one."
            )
    layers = {
        path: AdapterLayer(
            file,
            path,
            next(iter(of_path.values())).path,
            {role: of_path[role].name for role in of_path},
            shapes,
        )
        for path, of_path in grouped.items()
    }
    return layers, unmatched


def _leave_out_narrow_input(layers: dict[str, AdapterLayer]) -> Unmatched:
    """Drop changes of the patch embedding that were made for fewer latent channels.

    Raises:
        AdapterError: they were made for more.
    """
    unmatched: Unmatched = []
    for path, layer in list(layers.items()):
        channels = input_channels(layer)
        if channels is None:
            continue
        found, expected = channels
        if found > expected:
            layer.refuse(
                f"the adapter enlarges it from {expected} to {found} channels, as for an image-to-video or a "
                "control model, which is not supported",
                "Use an adapter for this model.",
            )
        reason = f"of a patch embedding for {found} channels, where this model has {expected}"
        unmatched += [(parse_key(name), reason) for name in layer.keys.values()]
        del layers[path]
    return unmatched
