"""The record that describes one model variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlx_video.config import SamplingDefaults

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What tells checkpoints apart: sizes read from tensor shapes, and which extra tensors there are."""

    in_dim: int
    out_dim: int
    dim: int
    num_layers: int
    is_dual: bool
    names: frozenset[str]

    def has_part(self, prefix: str) -> bool:
        """Whether any tensor name starts with `prefix`."""
        return any(name.startswith(prefix) for name in self.names)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of the request's fields that a variant needs or may get."""

    required: tuple[str, ...] = ("prompt",)
    optional: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the family: how to recognise it, what it takes, how it samples by default.

    Attributes:
        name: as in the converted config and on the command line.
        title: for people.
        model_version: "2.1" or "2.2".
        model_type: the official code's task name.
        matches: whether a checkpoint is this variant; more special variants stand earlier in VARIANTS.
        sampling: the official defaults.
        inputs: what the user gives.
    """

    name: str
    title: str
    model_version: str
    model_type: str
    matches: Callable[[CheckpointFacts], bool]
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    inputs: Inputs = field(default_factory=Inputs)
