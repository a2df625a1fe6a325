"""Adapter files matched against a transformer: what each changes, checked before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlx_video.config import TransformerConfig
from mlx_video.errors import AdapterError
from mlx_video.files.hub_cache import published_name
from mlx_video.layouts.components import Expert
from mlx_video.lora.adapter_file import AdapterFile
from mlx_video.lora.adapter_set import AdapterSet
from mlx_video.lora.changes import Change
from mlx_video.lora.dialects import AdapterKey, Spellings, find_experts, is_diffusers, parse_key
from mlx_video.lora.families import explain_stray, explain_unmatched, guess_expert, guess_family
from mlx_video.lora.halves import Part, take_part
from mlx_video.lora.layers import AdapterLayer, LayerChanges, build_changes, input_channels
from mlx_video.lora.leftovers import find_leftovers, name_leftover
from mlx_video.lora.report import describe, describe_unmatched, describe_zeros, warn_of_expert, warn_of_scale
from mlx_video.lora.scaling import read_scaling
from mlx_video.lora.widening import Widening, wide_channels
from mlx_video.lora.zeros import leave_out_zeros
from mlx_video.request import LoraChoice
from mlx_video.weights.names.adapter_names import Role
from mlx_video.weights.names.vace_names import count_vace_blocks
from mlx_video.weights.network import PLAIN, TransformerNetwork
from mlx_video.weights.rules import Shape

__all__ = ["AdapterSet", "find_expert", "read_adapters"]

Unmatched = list[tuple[AdapterKey, str]]


def read_adapters(
    choices: Sequence[LoraChoice],
    config: TransformerConfig,
    network: TransformerNetwork = PLAIN,
    *,
    strict: bool = False,
    transformer: str = "model",
) -> AdapterSet:
    """Find out what adapters do to one transformer; of factors no more is read than tells them from zeros.

    Of a file for two experts, the half of this transformer counts.

    Args:
        choices: files and strengths, in the order in which they count.
        config: sizes of the transformer.
        network: what the transformer is.
        strict: refuse a file of which a part fits nothing, or that changes nothing, instead of saying so in a
            notice. Tensors that are known to do no harm are never refused.
        transformer: the name of its role, for the notices.

    Raises:
        AdapterError: a file is absent, fits nothing in the transformer, fits in part or holds zeros alone
            under `strict`, is of a kind that cannot be applied, or its tensors do not fit each other or the
            transformer; or it is for two experts, and the transformer is none.
        CheckpointError: a file is damaged or no weight file.
    """
    shapes = network.parameters(config)
    changes: dict[str, list[Change]] = {}
    notices: list[str] = []
    widening: Widening | None = None
    for choice in choices:
        if choice.strength == 0:
            notices.append(f"{published_name(choice.path)}: strength 0, left out.")
            continue
        file = AdapterFile(choice.path)
        part = take_part(file.label, _parse_keys(file), transformer)
        found, unmatched = _match(file, part.keys, shapes, network)
        wide, narrow = _settle_input(found, config)
        layers, of_file = _read_part(part, found, [*unmatched, *narrow], choice, network, strict, transformer)
        notices += of_file
        if wide:
            widening = wide
            notices.append(
                f"{part.label}: widens the input from {wide.stored} to {wide.taken} channels; the new ones "
                "take the video of --control-video."
            )
        for layer in layers.values():
            for name, of_name in layer.changes.items():
                changes.setdefault(name, []).extend(replace(one, by_step=choice.by_step) for one in of_name)
    _refuse_other_kinds_by_step(changes)
    # In the transformer's order, so that applying goes block by block.
    return AdapterSet({name: changes[name] for name in shapes if name in changes}, notices, widening)


def _refuse_other_kinds_by_step(changes: Mapping[str, Sequence[Change]]) -> None:
    """Refuse strengths that change where something is merged into a weight.

    Raises:
        AdapterError: an adapter is no plain pair of factors, or one of another kind changes the same weight.
    """
    for name, of_name in changes.items():
        others = [one for one in of_name if not one.is_low_rank]
        if others and any(one.by_step for one in of_name):
            raise AdapterError(
                f"{others[0].file.label}: changes {name} by more than a pair of factors. That is merged "
                "into the weight, so strengths cannot change from step to step. Give one strength."
            )


def _read_part(
    part: Part,
    found: Mapping[str, AdapterLayer],
    unmatched: Unmatched,
    choice: LoraChoice,
    network: TransformerNetwork,
    strict: bool,
    transformer: str,
) -> tuple[dict[str, LayerChanges], list[str]]:
    """What the layers of a file, or of its half, come to; and what to say of it."""
    if not found:
        raise AdapterError(
            f"{part.label}: none of {len(part.keys)} keys matched the transformer ({_first(part.keys)}). It "
            f"looks made for {guess_family(part.keys)}. Use an adapter for this model."
        )
    unmatched += [(key, explain_stray(key)) for key in part.strays]
    unmatched_notices = _judge_unmatched(part, unmatched, strict)
    file = next(iter(found.values())).file
    scaling = read_scaling(file, part.expert)
    built = {layer.path: build_changes(layer, scaling, choice.strength) for layer in found.values()}
    layers, zeros = leave_out_zeros(built)
    if strict and not layers:
        raise AdapterError(
            f"{describe_zeros(part.label, zeros)} Leave out --strict-lora to go on without it."
        )
    notices = [
        describe(part, layers, choice.strength, zeros, network.is_quantized)
        if layers
        else describe_zeros(part.label, zeros),
        *unmatched_notices,
        *warn_of_scale(part.label, layers.values(), choice.strength),
        *warn_of_expert(part, guess_expert(Path(file.label).stem, part.keys), transformer),
    ]
    return layers, notices


def find_expert(path: Path) -> Expert | None:
    """The one expert that an adapter is for by the names of its tensors; None where they do not tell.

    Raises:
        AdapterError: there is no such file, or it is no adapter.
        CheckpointError: the file is damaged or no weight file.
    """
    experts = find_experts(_parse_keys(AdapterFile(path)))
    return next(iter(experts)) if len(experts) == 1 else None


def _parse_keys(file: AdapterFile) -> list[AdapterKey]:
    keys = [parse_key(name) for name in file.infos]
    if not any(key.role for key in keys):
        raise AdapterError(
            f"{file.label}: holds no adapter: its {len(keys)} keys are whole weights or something else "
            f"({_first(keys)}). Give a LoRA file; a whole model is converted with convert_wan."
        )
    return keys


def _judge_unmatched(part: Part, unmatched: Unmatched, strict: bool) -> list[str]:
    """What to say of tensors that fit nothing.

    Raises:
        AdapterError: `strict`, and some of them are not known to do no harm.
    """
    kinds = find_leftovers(part.keys)
    named = [(key, reason, name_leftover(key, kinds)) for key, reason in unmatched]
    doubtful = [(key, reason) for key, reason, kind in named if not kind]
    if doubtful and strict:
        text = describe_unmatched(part, doubtful)
        raise AdapterError(
            f"{text} Leave out --strict-lora to use the rest, or take an adapter of this model."
        )
    said = [(key, f"{reason}, as in {kind}: harmless" if kind else reason) for key, reason, kind in named]
    return [describe_unmatched(part, said)] if said else []


def _first(keys: Sequence[AdapterKey]) -> str:
    return f"first: {', '.join(key.name for key in keys[:3])}" if keys else "it is empty"


def _match(
    file: AdapterFile, keys: Sequence[AdapterKey], shapes: Mapping[str, Shape], network: TransformerNetwork
) -> tuple[dict[str, AdapterLayer], Unmatched]:
    """Group a file's tensors by the layer they change."""
    spellings = Spellings(tuple(shapes), network.rules, network.diffusers_rules, diffusers=is_diffusers(keys))
    num_blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    num_vace_blocks = count_vace_blocks(shapes)
    grouped: dict[str, dict[Role, AdapterKey]] = {}
    unmatched: Unmatched = []
    for key in keys:
        path = spellings.find(key) if key.role else None
        if key.role is None or path is None:
            unmatched.append((key, explain_unmatched(key, num_blocks, num_vace_blocks)))
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


def _settle_input(
    layers: dict[str, AdapterLayer], config: TransformerConfig
) -> tuple[Widening | None, Unmatched]:
    """Decide on a patch embedding that was changed for another number of channels.

    Changes for a control video beside the noise stay, as changes of the wider layer; those for fewer channels
    are dropped.

    Args:
        layers: of one file; are changed.
        config: of the transformer.

    Returns:
        The wider input, if there is one; and what is dropped.

    Raises:
        AdapterError: they were made for more channels than can be given.
    """
    unmatched: Unmatched = []
    widening: Widening | None = None
    for path, layer in list(layers.items()):
        channels = input_channels(layer)
        if channels is None:
            continue
        found, expected = channels
        if found == wide_channels(config):
            widening = Widening(expected, found)
            wide = (layer.weight_shape[0], widening.columns)
            layers[path] = replace(layer, shapes={**layer.shapes, layer.weight_name: wide})
            continue
        if found > expected:
            layer.refuse(
                f"the adapter enlarges it from {expected} to {found} channels, as for an image-to-video or "
                "another control model",
                "Use an adapter for this model. Of those that enlarge it, only such as add a video's "
                "channels to a text-to-video model can be applied.",
            )
        reason = f"of a patch embedding for {found} channels, where this model has {expected}"
        unmatched += [(parse_key(name), reason) for name in layer.keys.values()]
        del layers[path]
    return widening, unmatched
