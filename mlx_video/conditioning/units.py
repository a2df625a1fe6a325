"""Conditioning units: each turns some of what the user gave into the conditioning fields that it owns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import ReadFrames, ReadMasks
from mlx_video.conditioning.continuation.part import WHOLE, Part
from mlx_video.conditioning.frames import ConditionFrames, FrameEncoder
from mlx_video.conditioning.types import Conditioning
from mlx_video.config import ModelConfig, TransformerConfig
from mlx_video.events import Work
from mlx_video.geometry import VideoGeometry
from mlx_video.media.resize import to_unit_range
from mlx_video.media.sources.source_video import SourceVideo

Fields = Mapping[str, object]
"""Names of fields of `Conditioning` → their values."""


@dataclass(frozen=True, slots=True)
class UnitInputs:
    """What a run gives its units.

    Attributes:
        prompts: the prompt, and the negative prompt where guidance reads it.
        reference_prompts: what a reference video shows, likewise; empty without such a video.
        images: name of the input → uint8 [H, W, 3], cut to what the video shows.
        geometry: of the video.
        config: of the model.
        originals: name of the input → uint8 [H, W, 3], as the user gave it.
        pictures: name of an input that takes several → uint8 [H, W, 3] each, as the user gave them.
        videos: name of the input → its frames, fitted to the video's size.
        masks: name of the input → its frames, fitted likewise.
        footage: name of the input → the video as the user gave it, for units that take it in their own way.
        options: name → value, of all options.
        part: where the run lies in a video of several parts, with the frames before it.
    """

    prompts: tuple[str, ...]
    geometry: VideoGeometry
    config: ModelConfig
    images: Mapping[str, np.ndarray] = field(default_factory=dict)
    originals: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    videos: Mapping[str, ReadFrames] = field(default_factory=dict)
    masks: Mapping[str, ReadMasks] = field(default_factory=dict)
    footage: Mapping[str, SourceVideo] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    reference_prompts: tuple[str, ...] = ()
    part: Part = WHOLE

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text that is encoded."""
        return (*self.prompts, *self.reference_prompts)


class Encoders(Protocol):
    """The model's encoders; each is in memory only while it works."""

    def encode_texts(self, texts: Sequence[str]) -> Work[list[mx.array]]:
        """Encode texts to features, [n, text_dim] each."""

    def encode_images(self, images: Sequence[np.ndarray]) -> mx.array:
        """Encode images, float32 [H, W, 3] in [-1, 1], to image tokens [K, image_dim]."""

    def encode_motion(self, motion_bucket_id: float) -> mx.array:
        """Encode how much moves to an addition to the modulation, [6, dim]."""

    def encode_sound(self, first_frame: int, num_frames: int) -> mx.array:
        """Encode the sound of some frames of the run's video to features [layers, num_frames, width]."""

    def open_vae(self) -> AbstractContextManager[FrameEncoder]:
        """Open the VAE's encoder; it is released with the context."""


@dataclass(frozen=True, slots=True)
class ConditioningUnit:
    """One way to condition a model.

    Attributes:
        name: for messages to developers.
        stage: of the run, in which it works; units of one stage stand side by side in a variant.
        owns: fields of `Conditioning` that it may fill, and no other unit that works in the same run.
        make: the fields' values.
        is_needed: whether the inputs of a run call for it.
    """

    name: str
    stage: str
    owns: tuple[str, ...]
    make: Callable[[UnitInputs, Encoders], Work[Fields]]
    is_needed: Callable[[UnitInputs], bool] = lambda inputs: True


def unless(other: ConditioningUnit, unit: ConditioningUnit) -> ConditioningUnit:
    """A unit that gives way to another where a run calls for that one."""
    return replace(unit, is_needed=lambda inputs: unit.is_needed(inputs) and not other.is_needed(inputs))


def fill_conditioning(
    units: Sequence[ConditioningUnit], inputs: UnitInputs, encoders: Encoders
) -> Work[dict[str, object]]:
    """Let units work one after the other.

    Args:
        units: of one stage.
        inputs: of the run.
        encoders: of the model.

    Returns:
        The fields that they filled, evaluated.

    Raises:
        ValueError: a unit fills a field that it does not own, or that another has filled.
    """
    filled: dict[str, object] = {}
    for unit in units:
        if unit.is_needed(inputs):
            fields = yield from unit.make(inputs, encoders)
            if foreign := set(fields) - set(unit.owns) | set(fields) & set(filled):
                raise ValueError(f"unit {unit.name} fills {sorted(foreign)}, which are not its own")
            filled |= fields
    mx.eval([value for value in filled.values() if isinstance(value, mx.array)])
    return filled


ADD_ON = "_add_on"
"""How the name of a field ends that holds an add-on; these fields join `Conditioning.add_ons`."""


def build_conditioning(fields: Fields) -> Conditioning:
    """Join the fields of all stages."""
    add_ons = tuple(value for name, value in fields.items() if name.endswith(ADD_ON))
    others = {name: value for name, value in fields.items() if not name.endswith(ADD_ON)}
    return Conditioning(**{"add_ons": add_ons, **others})  # type: ignore[arg-type]


def _encode_prompts(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    features = yield from encoders.encode_texts(inputs.prompts)
    return dict(zip(("context", "negative_context"), features, strict=False))


def count_read_images(transformer: TransformerConfig, given: int) -> int:
    """How many of the given images a transformer reads as image tokens: it tells several apart by places."""
    return given if transformer.image_positions else min(given, 1)


def _encode_image_tokens(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    yield from ()  # the image encoder reports nothing
    count = count_read_images(inputs.config.transformer, len(inputs.images))
    pixels = [to_unit_range(image) for image in [*inputs.images.values()][:count]]
    return {"image_tokens": encoders.encode_images(pixels)}


PROMPTS = ConditioningUnit("prompts", "text", ("context", "negative_context"), _encode_prompts)
"""Features of the prompts."""

IMAGE_TOKENS = ConditioningUnit(
    "image tokens",
    "image",
    ("image_tokens",),
    _encode_image_tokens,
    lambda inputs: bool(inputs.images) and inputs.config.transformer.image_dim is not None,
)
"""CLIP features of the images, for transformers that read them; of the first where these have no places."""


def frames_unit(name: str, owns: tuple[str, ...], condition: ConditionFrames) -> ConditioningUnit:
    """A unit that encodes the user's images as frames of the video.

    Args:
        name, owns: as in :class:`ConditioningUnit`.
        condition: makes the fields from the images.
    """

    def make(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
        with encoders.open_vae() as encode:
            fields = yield from condition(encode, [*inputs.images.values()], inputs.geometry)
            mx.eval(fields)
            return fields

    return ConditioningUnit(name, "image", owns, make, lambda inputs: bool(inputs.images))
