"""Text-to-video models with a control adapter, by which they follow a video beside the noise."""

from __future__ import annotations

from dataclasses import replace

from mlx_video.conditioning.control.units import CONTROL_CHANNELS
from mlx_video.config import TransformerConfig
from mlx_video.variants.variant import CheckpointFacts, Variant


def takes_control_video(variant: Variant, config: TransformerConfig) -> bool:
    """Whether a model's transformers take a video's channels more than they were published with."""
    return _takes_text_alone(variant) and config.in_dim == sum(variant.traits.channels)


def fits_with_control_video(variant: Variant, facts: CheckpointFacts) -> bool:
    """Whether a checkpoint is a model's but for the channels of a video."""
    is_wide = facts.in_dim == 2 * facts.out_dim
    return is_wide and _takes_text_alone(variant) and variant.traits.fit(replace(facts, in_dim=facts.out_dim))


def _takes_text_alone(variant: Variant) -> bool:
    channels, latent_channels = variant.traits.channels
    return variant.model_type == "t2v" and channels == latent_channels


def with_control_video(variant: Variant) -> Variant:
    """The model as it is with a control adapter, applied or baked in."""
    inputs = replace(variant.inputs, optional=(*variant.inputs.optional, "control_video"))
    return replace(
        variant,
        title=f"{variant.title} with a control adapter",
        inputs=inputs,
        units=(*variant.units, CONTROL_CHANNELS),
    )
