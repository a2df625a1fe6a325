"""An adapter that a training begins with, in place of numbers that change nothing."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_video.errors import RequestError
from mlx_video.lora.changes import Hadamard, LowRank
from mlx_video.lora.read import read_adapters
from mlx_video.request import LoraChoice
from mlx_video.training.adapter import Adapter
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
        delta, file = changes[0].delta, changes[0].file
        own_scale = adapter.plan.alpha / adapter.plan.rank
        if delta.rank != adapter.plan.rank:
            raise RequestError("init_lora", f"{path}: has rank {delta.rank}. Give --rank {delta.rank}.")
        if adapter.plan.kind == "lora" and isinstance(delta, LowRank) and changes[0].is_low_rank:
            down, up = (each.astype(mx.float32) for each in delta.factors(file.read))
            found = {"down": down, "up": up * (delta.scale / own_scale)}
        elif adapter.plan.kind == "loha" and isinstance(delta, Hadamard):
            leaves = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
            found = {
                leaf: file.read(tensor).astype(mx.float32)
                for leaf, tensor in zip(leaves, delta.factors, strict=True)
            }
            found["hada_w2_a"] = found["hada_w2_a"] * (delta.scale / own_scale)
        else:
            raise RequestError("init_lora", f"{path}: is no {adapter.plan.kind}. Give --network as it is.")
        values |= {f"{name}.{leaf}": value.astype(adapter.plan.dtype) for leaf, value in found.items()}
    mx.eval(values)
    adapter.trainable.put(values)
