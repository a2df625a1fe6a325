"""Distilled checkpoints: tensors cannot tell them from their base models, names can."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mlx_video.config import SamplingDefaults
from mlx_video.sampling.recipes.settle import adopt_recipe
from mlx_video.sampling.recipes.table import recognise_recipe

# What publishers of distilled models call their repositories, files and pipelines.
DISTILLED_NAMES = re.compile(
    r"fastwan|fastmetal|dmd|lightning|lightx2v|distill|causvid|accvid|self-?_?forcing|mean-?_?flow|"
    r"(?<!\d)[1-8]-?steps?(?![a-z])",
    re.IGNORECASE,
)
# More steps than any of them is made for.
MOST_STEPS = 10


def adopt_distilled(
    sampling: SamplingDefaults, model_type: str, names: Iterable[str]
) -> tuple[SamplingDefaults, tuple[str, ...]]:
    """The defaults of a checkpoint whose name says that it is distilled.

    Args:
        sampling: defaults of the base model.
        model_type: the official code's task name.
        names: of the checkpoint's folder, files and pipeline.

    Returns:
        Defaults, changed where a recipe for such models is known; and what to tell the user, nothing for
        other models.
    """
    found = [name for name in names if DISTILLED_NAMES.search(name)]
    if not found:
        return sampling, ()
    preset = recognise_recipe(found)
    if preset is None:
        advice = "use about --steps 4 --guide-scale 1; the defaults are those of the base model."
        return sampling, (f"{found[0]}: the name suggests a distilled model: {advice}",)
    changed = adopt_recipe(preset, sampling, model_type)
    text = (
        f"recipe {preset.name} becomes its default, with {changed.steps} steps, guide scale "
        f"{changed.guide_scale[0]:g} and shift {changed.shift:g}."
    )
    return changed, (f"{found[0]}: the name suggests a distilled model: {text}",)
