"""Models distilled by distribution matching: a jump to the clean latents and fresh noise, step by step."""

from __future__ import annotations

import re
from dataclasses import replace

from mlx_video.sampling.recipe import ModelSampling, Preset, TrainedSteps

_THREE = (1000.0, 757.0, 522.0)


def _fastwan_steps(model: ModelSampling) -> TrainedSteps:
    """Three steps that stay where they are; a shift that would move them is that of the model."""
    return TrainedSteps(_THREE, shift=8.0, warp_shift=5.0 if model.model_type == "ti2v" else 8.0)


def _fastmetal_steps(model: ModelSampling) -> TrainedSteps:
    """The same, but that the runtime of these models moves those of the 5B."""
    return replace(_fastwan_steps(model), warps=model.model_type == "ti2v")


# Source: FastVideo fastvideo/pipelines/stages/denoising.py, DmdDenoisingStage, whose table has shift 8 for
# every model; the FastWan2.2 model's page.
FASTWAN = Preset(
    "fastwan",
    re.compile(r"fastwan|wan\w*dmdpipeline", re.IGNORECASE),
    solver="lcm",
    steps=3,
    guide_scale=1.0,
    shifts={"ti2v": 3.0},
    trained_steps=_fastwan_steps,
)

# Source: huggingface.co/FastVideo/FastMetal-1.3B-QAD, FastMetal-14B-QAD and FastMetal-5B-QAD; FastVideo
# fastvideo/mlx_runtime/sampling.py, MLXDMDSchedule, and wan22_sample.py, build_wan22_dmd_schedule.
FASTMETAL = Preset(
    "fastmetal",
    re.compile(r"fastmetal", re.IGNORECASE),
    solver="lcm",
    steps=3,
    guide_scale=1.0,
    shifts={"t2v": 8.0, "ti2v": 5.0},
    trained_steps=_fastmetal_steps,
    sizes={"t2v": (832, 448, 77), "ti2v": (1280, 704, 121)},
)

# Source: LightX2V configs/causvid/wan_t2v_causvid.json, denoising_step_list. arXiv:2412.07772.
CAUSVID = Preset(
    "causvid",
    re.compile(r"caus-?_?vid", re.IGNORECASE),
    solver="lcm",
    steps=9,
    guide_scale=1.0,
    trained_steps=lambda _: TrainedSteps((1000.0, 934.0, 862.0, 756.0, 603.0, 410.0, 250.0, 140.0, 74.0)),
)


def _self_forcing_steps(model: ModelSampling) -> TrainedSteps:
    """Four steps from a table of 1000 under shift 5; eight of two experts under shift 12."""
    if model.is_dual:
        eight = (1000.0, 850.0, 700.0, 550.0, 350.0, 275.0, 200.0, 125.0)
        return TrainedSteps(eight, warps=True, warp_shift=12.0)
    # Entries 0, 179, 358 and 679, counted from pure noise.
    return TrainedSteps((1000.0, 821.0, 642.0, 321.0), warps=True, warp_shift=5.0)


# Source: guandeh17/Self-Forcing configs/self_forcing_dmd.yaml; LightX2V configs. arXiv:2506.08009.
SELF_FORCING = Preset(
    "self-forcing",
    re.compile(r"self-?_?forcing", re.IGNORECASE),
    solver="lcm",
    steps=4,
    guide_scale=1.0,
    trained_steps=_self_forcing_steps,
)
