"""The adapter that is trained: its factors, layer by layer, and how they come into a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.errors import RequestError
from mlx_video.request.train import NetworkKind
from mlx_video.training.factors import KINDS
from mlx_video.training.trainable import Trainable
from mlx_video.weights.rules import Shape

DEFAULT_LAYERS = r"blocks\.\d+\.(self_attn|cross_attn)\.(q|k|v|o)|blocks\.\d+\.ffn\.(fc1|fc2)"
"""The layers that DiffSynth trains: q, k, v, o, ffn.0, ffn.2 of every block."""


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """What is trained beside which layers.

    Attributes:
        kind: of the factors.
        rank, alpha: the change of a weight is scaled by alpha over rank.
        layers: path → rows and columns of its weight.
        dtype: of the trained numbers.
    """

    kind: NetworkKind
    rank: int
    alpha: float
    layers: Mapping[str, Shape]
    dtype: mx.Dtype = mx.float32


def find_layers(parameters: Mapping[str, Shape], targets: Iterable[str]) -> dict[str, Shape]:
    """The linear layers of a transformer that an adapter changes.

    Args:
        parameters: name → dense shape, of the transformer.
        targets: what the path of a layer ends with, or regular expressions of whole paths, in the names of a
            converted file or the official ones of `ffn.0` and `ffn.2`; none for the default.

    Raises:
        RequestError: a target fits no layer.
    """
    layers = {
        name.removesuffix(".weight"): shape
        for name, shape in parameters.items()
        if name.endswith(".weight") and len(shape) == 2
    }
    chosen: dict[str, Shape] = {}
    for target in targets or (DEFAULT_LAYERS,):
        found = {path: shape for path, shape in layers.items() if _fits(target, path)}
        if not found:
            ends = sorted({re.sub(r"^blocks\.\d+\.", "", path) for path in layers})
            raise RequestError(
                "target_modules", f"{target}: fits no layer. The layers end with {', '.join(ends)}."
            )
        chosen |= found
    return {path: shape for path, shape in layers.items() if path in chosen}


def _fits(target: str, path: str) -> bool:
    official = path.replace("ffn.fc1", "ffn.0").replace("ffn.fc2", "ffn.2")
    if any(name == target or name.endswith(f".{target}") for name in (path, official)):
        return True
    try:
        return re.fullmatch(target, path) is not None
    except re.error:
        return False


class Adapter:
    """The factors of one transformer's adapter.

    Args:
        plan: what there is.
        seed: of the numbers that they begin with.
    """

    def __init__(self, plan: AdapterPlan, seed: int) -> None:
        self.plan = plan
        self._factors: dict[str, nn.Module] = {}
        build, scale = KINDS[plan.kind], plan.alpha / plan.rank
        for number, (path, (rows, columns)) in enumerate(plan.layers.items()):
            rng = np.random.default_rng([seed, number])

            def draw(shape: tuple[int, ...]) -> mx.array:
                return mx.array(rng.uniform(-1, 1, shape).astype(np.float32))  # noqa: B023: called at once

            self._factors[path] = build(rows, columns, plan.rank, scale, draw)
        for factors in self._factors.values():
            for leaf in factors.trained:
                factors[leaf] = factors[leaf].astype(plan.dtype)

    @property
    def trainable(self) -> Trainable:
        """The trained parameters: path of the layer and name of the factor."""
        return Trainable(
            {
                f"{path}.{leaf}": (factors, leaf)
                for path, factors in self._factors.items()
                for leaf in factors.trained
            }
        )

    def attach(self, module: nn.Module, prefix: str = "") -> None:
        """Put the factors beside the layers of a transformer, or of a block of it.

        Args:
            module: loaded.
            prefix: where it stands in the transformer, such as "blocks.3."; with "" blocks that it lacks are
                left to calls of their own.
        """
        layers = dict(module.named_modules())
        for path, factors in self._factors.items():
            if path.startswith(prefix) and (layer := layers.get(path.removeprefix(prefix))) is not None:
                layer.unmerged = factors
