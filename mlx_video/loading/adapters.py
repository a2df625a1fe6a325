"""The adapters of a run or a conversion: which transformer takes which, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.files.hub_cache import published_name
from mlx_video.layouts.components import EXPERT_ROLES, Expert, find_role
from mlx_video.lora.apply import merged_weight
from mlx_video.lora.read import AdapterSet, find_expert, read_adapters
from mlx_video.lora.widening import PATCH_WEIGHT
from mlx_video.request import LORA_FIELDS, ConvertRequest, GenerateRequest, LoraChoice
from mlx_video.variants.registry import find_variant
from mlx_video.weights.stream import TensorJob

OWN_FIELDS = {role.name: role.adapter_option for role in reversed(EXPERT_ROLES)}


def read_all_adapters(
    request: GenerateRequest | ConvertRequest, config: ModelConfig
) -> tuple[dict[str, AdapterSet], tuple[Notice, ...]]:
    """Read what adapters hold and check them against the transformers that take them.

    Of a file for two experts each takes its half. A file whose tensors name one expert goes to that one
    alone, even if it is given for both.

    Args:
        request: names the adapters.
        config: of the model.

    Returns:
        Name of each transformer that takes any ("model", or "high_noise" and "low_noise") → its adapters,
        those for both experts first; and what to tell the user.

    Raises:
        AdapterError: a file is damaged, or does not fit its transformer.
        RequestError: adapters for one expert are given to a model that has one transformer.
    """
    _refuse_baking_by_step(request)
    network = find_variant(config).network
    found: dict[str, AdapterSet] = {}
    owners = _find_owners(request) if config.is_dual else {}
    texts = [
        f"{published_name(path)}: its tensors name one expert; applied to the {find_role(expert).words} "
        "alone."
        for path, expert in owners.items()
    ]
    for name, choices in choose_adapters(request, config, owners).items():
        adapters = read_adapters(
            choices, config.transformer, network, strict=request.strict_lora, transformer=name
        )
        texts += adapters.notices
        if adapters:
            found[name] = adapters
    widening = next((one.widening for one in found.values() if one.widening), None)
    if widening:
        # One input serves both experts: where only one makes use of it, it counts for nothing in the other.
        names = OWN_FIELDS if config.is_dual else ("model",)
        found = {name: found.get(name, AdapterSet({})).with_widening(widening) for name in names}
    return found, tuple(map(Notice, dict.fromkeys(texts)))


def widen_config(config: ModelConfig, adapters: Mapping[str, AdapterSet]) -> ModelConfig:
    """Configuration of a model with its adapters, which may have its transformers take more channels."""
    widening = next((one.widening for one in adapters.values() if one.widening), None)
    if widening is None:
        return config
    return replace(config, transformer=replace(config.transformer, in_dim=widening.taken))


def _refuse_baking_by_step(request: GenerateRequest | ConvertRequest) -> None:
    for name in LORA_FIELDS:
        for choice in getattr(request, name) if isinstance(request, ConvertRequest) else ():
            if choice.by_step:
                raise RequestError(name, f"{choice}: weights have no steps. Give one strength.")


def _find_owners(request: GenerateRequest | ConvertRequest) -> dict[Path, Expert]:
    """The files given for both experts whose tensors name one of them."""
    owners = {choice.path: find_expert(choice.path) for choice in request.loras if choice.strength}
    return {path: expert for path, expert in owners.items() if expert is not None}


def choose_adapters(
    request: GenerateRequest | ConvertRequest, config: ModelConfig, owners: Mapping[Path, Expert]
) -> dict[str, tuple[LoraChoice, ...]]:
    """Which adapters each transformer takes, in the order in which they count.

    Args:
        request: names the adapters.
        config: of the model.
        owners: files among those for both experts that are for one.

    Raises:
        RequestError: adapters for one expert are given to a model that has one transformer.
    """
    if config.is_dual:
        chosen = {
            name: (
                *(choice for choice in request.loras if owners.get(choice.path, name) == name),
                *getattr(request, field),
            )
            for name, field in OWN_FIELDS.items()
        }
    else:
        _refuse_expert_adapters(request)
        chosen = {"model": request.loras}
    return {name: choices for name, choices in chosen.items() if choices}


def _refuse_expert_adapters(request: GenerateRequest | ConvertRequest) -> None:
    for field in OWN_FIELDS.values():
        for choice in getattr(request, field):
            raise RequestError(
                field,
                f"{choice.named}: this model has one transformer, no high-noise and low-noise expert. "
                "Use --lora.",
            )


def bake_jobs(jobs: Sequence[TensorJob], adapters: AdapterSet | None) -> tuple[TensorJob, ...]:
    """A transformer's tensors, with adapters merged into those that they change."""
    if adapters is None:
        return tuple(jobs)
    return tuple(_bake(job, adapters) for job in jobs)


def _bake(job: TensorJob, adapters: AdapterSet) -> TensorJob:
    name, move = job.move.target, job.move
    if adapters.widening and name == PATCH_WEIGHT:
        move = replace(move, shape=(move.shape[0], adapters.widening.columns))
    elif name not in adapters.targets:
        return job
    return replace(job, move=move, merge=partial(merged_weight, adapters, name))


def record_baked(config: Mapping[str, Any], request: ConvertRequest) -> dict[str, Any]:
    """A config.json that also says which adapters its weights hold, after those that they held before.

    A folder of another tool stays without: the key under which they would stand marks a folder as ours.
    """
    own = config.get("mlx_video")
    if own is None:
        return dict(config)
    baked = {name: [str(choice) for choice in getattr(request, name)] for name in LORA_FIELDS}
    added = {name: [*own.get(name, []), *texts] for name, texts in baked.items() if texts}
    return {**config, "mlx_video": {**own, **added}}
