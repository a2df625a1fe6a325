"""The largest example of a dataset, which decides a training's memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_video.config import ModelConfig
from mlx_video.geometry import VideoGeometry, measure
from mlx_video.planning.model_sizes import ModelSizes
from mlx_video.training.data.cached_dataset import CachedDataset
from mlx_video.training.data.example_file import LATENTS
from mlx_video.training.data.example_plan import Survey


@dataclass(frozen=True, slots=True)
class LargestExample:
    """What of an example decides the memory.

    Attributes:
        num_tokens: of its latents.
        image_tokens: that cross-attention reads besides the text.
    """

    num_tokens: int
    image_tokens: int = 0


def largest_of_cache(examples: CachedDataset, config: ModelConfig) -> LargestExample:
    """The largest of encoded examples."""
    cells = math.prod(config.transformer.patch_size)
    shapes = [dict(example.shapes) for example in examples.examples]
    return max(
        (
            LargestExample(math.prod(found[LATENTS][1:]) // cells, found.get("image_tokens", (0,))[0])
            for found in shapes
        ),
        key=lambda largest: largest.num_tokens,
    )


def largest_of_survey(survey: Survey, sizes: ModelSizes) -> tuple[LargestExample, VideoGeometry]:
    """The largest of examples that are not encoded yet, and its geometry."""
    config = sizes.config
    geometry, example = max(
        (
            (
                measure(
                    *each.size,
                    each.window.length,
                    z_dim=config.vae.z_dim,
                    stride=config.vae.stride,
                    patch_size=config.transformer.patch_size,
                ),
                each,
            )
            for each in survey.examples
        ),
        key=lambda found: found[0].num_tokens,
    )
    image_tokens = sizes.image_tokens(len(example.own_frames))
    return LargestExample(geometry.num_tokens, image_tokens), geometry
