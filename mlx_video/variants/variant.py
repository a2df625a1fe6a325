"""The record that describes one model variant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_video.conditioning.continuation.way import Continuation
from mlx_video.conditioning.units import PROMPTS, ConditioningUnit
from mlx_video.config import ModelConfig, SamplingDefaults
from mlx_video.request import GenerateRequest
from mlx_video.sampling.blocks import BlockMethod
from mlx_video.weights.network import PLAIN, TransformerNetwork

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
class Evidence:
    """What tells transformers apart besides their tensors.

    Attributes:
        names: what their publisher calls them: folder or repository, files.
        stored: the tensors under the names of the file.
        config: what a config.json beside them says.
    """

    names: tuple[str, ...] = ()
    stored: Shapes = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def class_name(self) -> str:
        """The class that config.json says they are of; "" where it says none."""
        return str(self.config.get("_class_name", ""))


def _tell_nothing(facts: CheckpointFacts, evidence: Evidence) -> bool:
    return False


# What the tensors' names of a transformer for text alone begin with; every other one has these too.
PLAIN_PARTS = (
    "patch_embedding.", "text_embedding.", "time_embedding.", "time_projection.", "blocks.", "head.", "freqs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traits:
    """What a model's transformers have, and all that they have besides the plain network.

    Attributes:
        channels: in and out.
        parts: what the names of its further tensors begin with; a transformer of the model has every one.
        is_dual: whether it has a low-noise and a high-noise transformer.
        size: width and blocks; None for any.
    """

    channels: tuple[int, int]
    parts: tuple[str, ...] = ()
    is_dual: bool = False
    size: tuple[int, int] | None = None

    def fit(self, facts: CheckpointFacts) -> bool:
        """Whether a checkpoint has all that the model has, and no part beyond that."""
        return self.are_in(facts) and not self.find_strays(facts)

    def are_in(self, facts: CheckpointFacts) -> bool:
        """Whether a checkpoint has all that the model has, whatever else there is."""
        return (
            self.channels == (facts.in_dim, facts.out_dim)
            and self.is_dual == facts.is_dual
            and self.size in (None, (facts.dim, facts.num_layers))
            and all(map(facts.has_part, self.parts))
        )

    def find_strays(self, facts: CheckpointFacts) -> tuple[str, ...]:
        """The tensors that belong to no part of the model, sorted."""
        known = (*PLAIN_PARTS, *self.parts)
        return tuple(sorted(name for name in facts.names if not name.startswith(known)))


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of the request's fields that a variant needs or may get.

    Attributes:
        required: all are needed.
        optional: each may be given.
        alternatives: just one of them is needed.
        one_frame: optional too, all of them or none: they make one picture of what is required, in place of a
            video.
        shorthands: optional too, each with the inputs that it stands for, beside which it is not given.
        sized_by: the video that decides the size of the result; "" for the first image, or else first video.
        own_sizes: videos whose frames are not of the result's size, with their width and height in pixels.
    """

    required: tuple[str, ...] = ("prompt",)
    optional: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    one_frame: tuple[str, ...] = ()
    shorthands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sized_by: str = ""
    own_sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def together(self) -> tuple[str, ...]:
        """The inputs of a video that go with each other: no shorthands, and of alternatives the first."""
        return (*self.required, *self.optional, *self.alternatives[:1])

    @property
    def all(self) -> tuple[str, ...]:
        """Every input that the variant takes."""
        return (*self.required, *self.optional, *self.alternatives, *self.one_frame, *self.shorthands)


ChooseSize = Callable[[int, int, int], tuple[int, int]]
"""Image height, image width, area in pixels → width and height of the video, in pixels."""


Settle = Callable[[GenerateRequest, ModelConfig], GenerateRequest]
"""The request of a run → the same with what its inputs decide."""


@dataclass(frozen=True, slots=True)
class LowAreaShift:
    """A shift for videos of at most `max_area` pixels a frame, in place of the default one."""

    max_area: int
    shift: float


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the family: how to recognise it, what it takes, how it samples by default.

    Attributes:
        name: as in the converted config and on the command line.
        title: for people.
        model_version: "2.1" or "2.2".
        model_type: the official code's task name.
        traits: how a checkpoint is recognised; of variants that fit one, the first in VARIANTS is meant.
        network: what its transformers are.
        sampling: the official defaults.
        inputs: what the user gives.
        units: turn the inputs into conditioning, in the order of the run's stages.
        continuation: how a video goes on from the frames of another, or of a part before; None for a model
            that makes videos at once only.
        choose_size: the video's size where it follows the first image; None for a model that takes no image.
        leading_frames: latent frames that are sampled before the video's, and dropped.
        low_area_shift: an official exception to the default shift.
        names: what its publishers call it, where nothing else tells it from a model with the same tensors;
            None where the tensors tell it.
        is_marked: whether something else tells a model that has `names`, where none of them is there.
        remark: what the converter tells the user of this model besides its name.
        settle: what given inputs decide of the other options.
        remark_on_prompt: what to tell the user of a prompt that the model cannot follow, "" for nothing; None
            for a model that takes any prompt.
        blocks: how it makes videos block by block; None for a model that was not trained to.
    """

    name: str
    title: str
    model_version: str
    model_type: str
    traits: Traits
    network: TransformerNetwork = PLAIN
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)
    inputs: Inputs = field(default_factory=Inputs)
    units: tuple[ConditioningUnit, ...] = (PROMPTS,)
    continuation: Continuation | None = None
    choose_size: ChooseSize | None = None
    leading_frames: int = 0
    low_area_shift: LowAreaShift | None = None
    names: re.Pattern[str] | None = None
    is_marked: Callable[[CheckpointFacts, Evidence], bool] = _tell_nothing
    remark: str = ""
    settle: Settle | None = None
    remark_on_prompt: Callable[[str], str] | None = None
    blocks: BlockMethod | None = None

    def answers_to(self, names: Iterable[str]) -> bool:
        """Whether one of its publisher's names, of a folder, a repository or a file, may be this model's."""
        return self.names is None or any(map(self.names.search, names))

    def is_meant(self, facts: CheckpointFacts, evidence: Evidence) -> bool:
        """Whether a checkpoint that has the model's tensors is this model's."""
        return self.answers_to(evidence.names) or self.is_marked(facts, evidence)
