"""The recipe of Bernini-R: the official noise levels and solver, guidance by what is given."""

from __future__ import annotations

from mlx_video.sampling.guidance import ClassifierFreeGuidance, Guidance
from mlx_video.sampling.recipe import ModelSampling, Preset
from mlx_video.sampling.source_guidance import PICTURES, VIDEO, chain_sources

SOURCE_VIDEO, SOURCE_PICTURES = "bernini_video", "bernini_reference_image"
"""Inputs of Bernini-R."""
PICTURES_SCALE, VIDEO_SCALE = 4.5, 1.25
LOW_NOISE_SHARE = 0.8
"""Share of these scales that the low-noise expert takes."""


def find_kinds(inputs: frozenset[str]) -> frozenset[str]:
    """Kinds of the sources among the inputs of a run."""
    of_inputs = {SOURCE_VIDEO: VIDEO, SOURCE_PICTURES: PICTURES}
    return frozenset(kind for name, kind in of_inputs.items() if name in inputs)


def _guide(model: ModelSampling, scale: float, transformer: str) -> Guidance:
    if scale == 1.0:
        return ClassifierFreeGuidance(scale)
    share = LOW_NOISE_SHARE if transformer == "low_noise" else 1.0
    return chain_sources(
        find_kinds(model.inputs),
        scale,
        share * PICTURES_SCALE,
        share * VIDEO_SCALE,
        is_picture=model.is_picture,
    )


# Source: bytedance/Bernini bernini/cli.py, add_common_args.
BERNINI = Preset("bernini", solver="unipc", guide=_guide)
