"""The adapter that is trained: its factors, layer by layer, and how they come into a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_video.config import TransformerConfig
from mlx_video.errors import RequestError
from mlx_video.request.train import NetworkKind
from mlx_video.training.factors import KINDS
from mlx_video.training.trainable import Trainable
from mlx_video.weights.network import TransformerNetwork
from mlx_video.weights.rules import Shape, apply_rules

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


def find_layers(
    network: TransformerNetwork, config: TransformerConfig, targets: Iterable[str]
) -> dict[str, Shape]:
    """The linear layers of a transformer that an adapter changes: path → rows and columns.

    Args:
        network, config: of the transformer.
        targets: what the path of a layer ends with, or regular expressions of whole paths, in the official
            names or those of a converted file; none for the default.

    Raises:
        RequestError: a target fits no layer.
    """
    layers: dict[str, Shape] = {}
    spellings: dict[str, tuple[str, str]] = {}
    for official, shape in network.tensors(config).items():
        name, _ = apply_rules(official, network.rules)
        if official.endswith(".weight") and len(shape) == 2 and name is not None:
            path = name.removesuffix(".weight")
            layers[path], spellings[path] = shape, (path, official.removesuffix(".weight"))
    chosen: set[str] = set()
    for target in targets or (DEFAULT_LAYERS,):
        found = {path for path in layers if _fits(target, spellings[path])}
        if not found:
            ends = sorted({re.sub(r"^\w*blocks\.\d+\.", "", path) for path in layers})
            raise RequestError(
                "target_modules", f"{target}: fits no layer. The layers end with {', '.join(ends)}."
            )
        chosen |= found
    return {path: shape for path, shape in layers.items() if path in chosen}


def _fits(target: str, spellings: Iterable[str]) -> bool:
    if any(f".{name}".endswith(f".{target}") for name in spellings):
        return True
    try:
        return any(re.fullmatch(target, name) for name in spellings)
    except re.error:
        return False


def _draw_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> mx.array:
    return mx.array(rng.uniform(-1, 1, shape).astype(np.float32))


class Adapter:
    """The factors of one transformer's adapter.

    Args:
        plan: what there is.
        seed: of the numbers that they begin with.
    """

    def __init__(self, plan: AdapterPlan, seed: int) -> None:
        self.plan = plan
        self._factors: dict[str, nn.Module] = {}
        kind, scale = KINDS[plan.kind], plan.alpha / plan.rank
        for number, (path, (rows, columns)) in enumerate(plan.layers.items()):
            draw = partial(_draw_uniform, np.random.default_rng([seed, number]))
            factors = kind.build(rows, columns, plan.rank, scale, draw)
            for leaf in kind.trained:
                factors[leaf] = factors[leaf].astype(plan.dtype)
            mx.eval(factors.parameters())
            self._factors[path] = factors

    @property
    def trainable(self) -> Trainable:
        """The trained parameters: path of the layer and name of the factor."""
        return Trainable(
            {
                f"{path}.{leaf}": (factors, leaf)
                for path, factors in self._factors.items()
                for leaf in KINDS[self.plan.kind].trained
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
