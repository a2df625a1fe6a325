"""An adapter that a training begins with, in place of numbers that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from mlx_video.errors import RequestError
from mlx_video.lora.changes import Change, Hadamard, Kronecker, LowRank
from mlx_video.lora.read import read_adapters
from mlx_video.request import LoraChoice
from mlx_video.request.train import NetworkKind
from mlx_video.training.adapter import Adapter, AdapterPlan
from mlx_video.training.factors import KINDS
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.trainable import Values


def put_initial(adapter: Adapter, path: Path, plan: TrainingPlan) -> None:
    """Give an adapter the factors of a file, whatever the file's spelling and its alpha.

    Raises:
        AdapterError: the file is damaged, or does not fit the model.
        RequestError: it is of another kind or rank, or changes other layers.
    """
    read = read_adapters(
        [LoraChoice(path, 1.0)],
        plan.config.transformer,
        plan.network,
        strict=True,
        transformer=plan.transformer,
    )
    values: Values = {}
    for name in adapter.plan.layers:
        changes = read.changes.get(f"{name}.weight", ())
        if len(changes) != 1:
            raise RequestError(
                "init_lora", f"{path}: does not change {name}. Choose --target-modules as it has."
            )
        found = _read_factors(adapter.plan, changes[0], path)
        values |= {f"{name}.{leaf}": value.astype(adapter.plan.dtype) for leaf, value in found.items()}
    mx.eval(values)
    adapter.trainable.put(values)


def _read_factors(plan: AdapterPlan, change: Change, path: Path) -> Values:
    """A file's factors of one layer, at the scale of the plan.

    Raises:
        RequestError: they are of another kind or rank.
    """
    found, delta = _READERS[plan.kind](change), change.delta
    if found is None:
        raise RequestError("init_lora", f"{path}: is no {plan.kind}. Give --network as it is.")
    if delta.rank != plan.rank:
        raise RequestError("init_lora", f"{path}: has rank {delta.rank}. Give --rank {delta.rank}.")
    zero = KINDS[plan.kind].zero
    values = {leaf: value.astype(mx.float32) for leaf, value in found.items()}
    return values | {zero: values[zero] * (delta.scale / (plan.alpha / plan.rank))}


def _read_low_rank(change: Change) -> Values | None:
    delta = change.delta
    if not isinstance(delta, LowRank) or not change.is_low_rank:
        return None
    down, up = delta.factors(change.file.read)
    return {"down": down, "up": up}


def _read_hadamard(change: Change) -> Values | None:
    return _read_named("loha", change) if isinstance(change.delta, Hadamard) else None


def _read_kronecker(change: Change) -> Values | None:
    """Factors of the form that is trained: the smaller matrix whole, the larger one of two."""
    delta = change.delta
    if not isinstance(delta, Kronecker) or (len(delta.first), len(delta.second)) != (1, 2):
        return None
    found = _read_named("lokr", change)
    (few_rows, few), (many_rows, rank), (_, many) = (found[leaf].shape for leaf in KINDS["lokr"].trained)
    own = KINDS["lokr"].shapes(few_rows * many_rows, few * many, rank)
    return found if own == tuple(each.shape for each in found.values()) else None


def _read_named(kind: NetworkKind, change: Change) -> Values:
    leaves = KINDS[kind].trained
    return {leaf: change.file.read(name) for leaf, name in zip(leaves, change.delta.tensors, strict=True)}


_READERS: Mapping[NetworkKind, Callable[[Change], Values | None]] = MappingProxyType(
    {"lora": _read_low_rank, "loha": _read_hadamard, "lokr": _read_kronecker}
)
"""Kind of an adapter → a file's change of a layer → its factors; None where it is of another kind."""
