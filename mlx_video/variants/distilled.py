"""Distilled checkpoints: tensors cannot tell them from their base models, names can."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mlx_video.config import SamplingDefaults

# What publishers of distilled models call their repositories, files and pipelines.
DISTILLED_NAMES = re.compile(
    r"fastwan|fastmetal|dmd|lightning|lightx2v|distill|causvid|accvid|(?<!\d)[1-8]-?steps?(?![a-z])",
    re.IGNORECASE,
)
# More steps than any of them is made for.
MOST_STEPS = 10


@dataclass(frozen=True, slots=True)
class DistilledFamily:
    """Distilled models whose sampling is known.

    Attributes:
        names: what their repositories and pipelines are called.
        shifts: model type → shift, where the family has one of its own.
        scheduler: the one it was trained for, where that is not the default.
        sizes: model type → width and height in pixels and frames of the videos that it was trained on.
    """

    names: re.Pattern[str]
    steps: int
    guide_scale: float
    shifts: dict[str, float]
    scheduler: str = ""
    sizes: dict[str, tuple[int, int, int]] = field(default_factory=dict)


# Source: FastVideo fastvideo/configs/sample/wan.py, FastWanT2V480PConfig, and the FastWan2.2 model's page.
FASTWAN = DistilledFamily(
    re.compile(r"fastwan|wan\w*dmdpipeline", re.IGNORECASE), steps=3, guide_scale=1.0, shifts={"ti2v": 3.0}
)
# Source: huggingface.co/FastVideo/FastMetal-1.3B-QAD, FastMetal-14B-QAD and FastMetal-5B-QAD.
FASTMETAL = DistilledFamily(
    re.compile(r"fastmetal", re.IGNORECASE),
    steps=3,
    guide_scale=1.0,
    shifts={"t2v": 8.0, "ti2v": 5.0},
    sizes={"t2v": (832, 448, 77), "ti2v": (1280, 704, 121)},
)
# Source: ModelTC/LightX2V configs/distill/wan21/wan_i2v_distill_model_4step_cfg.json.
LIGHTX2V = DistilledFamily(
    re.compile(r"lightx2v|step_?distill|(?<!\d)4-?steps?(?![a-z])", re.IGNORECASE),
    steps=4,
    guide_scale=1.0,
    shifts=dict.fromkeys(("t2v", "i2v"), 5.0),
    scheduler="euler",
)
FAMILIES = (FASTWAN, FASTMETAL, LIGHTX2V)


def adopt_family(family: DistilledFamily, sampling: SamplingDefaults, model_type: str) -> SamplingDefaults:
    """The defaults of a model of this family.

    Args:
        family: of which it is known to be.
        sampling: defaults of the base model.
        model_type: the official code's task name.
    """
    width, height, num_frames = family.sizes.get(
        model_type, (sampling.width, sampling.height, sampling.num_frames)
    )
    return replace(
        sampling,
        steps=family.steps,
        guide_scale=(family.guide_scale, family.guide_scale),
        shift=family.shifts.get(model_type, sampling.shift),
        width=width,
        height=height,
        num_frames=num_frames,
    )


def adopt_distilled(
    sampling: SamplingDefaults, model_type: str, names: Iterable[str]
) -> tuple[SamplingDefaults, tuple[str, ...]]:
    """The defaults of a checkpoint whose name says that it is distilled.

    Args:
        sampling: defaults of the base model.
        model_type: the official code's task name.
        names: of the checkpoint's folder, files and pipeline.

    Returns:
        Defaults, changed where the family is known; and what to tell the user, nothing for other models.
    """
    found = [name for name in names if DISTILLED_NAMES.search(name)]
    if not found:
        return sampling, ()
    family = next((family for family in FAMILIES if any(map(family.names.search, found))), None)
    if family is None:
        advice = "use about --steps 4 --guide-scale 1; the defaults are those of the base model."
        return sampling, (f"{found[0]}: the name suggests a distilled model: {advice}",)
    changed = adopt_family(family, sampling, model_type)
    text = (
        f"{family.steps} steps, guide scale {family.guide_scale:g} and shift {changed.shift:g} become its "
        "defaults." + (f" Generate with --scheduler {family.scheduler}." if family.scheduler else "")
    )
    return changed, (f"{found[0]}: the name suggests a distilled model: {text}",)
