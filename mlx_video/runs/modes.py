"""What a run can be, each a list of stages; a new stage is a file in `stages` and its name in a list here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_video.conditioning.units import Fields
from mlx_video.events import Work
from mlx_video.runs.inputs import unit_inputs
from mlx_video.runs.run import Run
from mlx_video.runs.stages.decode import DECODE, FrameSink
from mlx_video.runs.stages.denoise import DENOISE
from mlx_video.runs.stages.encode import IMAGE, TEXT
from mlx_video.runs.stages.save_latents import SAVE_LATENTS
from mlx_video.runs.stages.stage import Stage, run_stages

MODES: dict[str, tuple[Stage, ...]] = {
    "generate": (TEXT, IMAGE, DENOISE, SAVE_LATENTS, DECODE),
    "denoise": (DENOISE, SAVE_LATENTS, DECODE),
    "decode": (SAVE_LATENTS, DECODE),
}
"""Name of a mode → its stages. "generate" makes a video from what the user gave, with images or without;
"denoise" from conditioning that is there; "decode" from latents that are there."""


def make_video(run: Run, sinks: Sequence[FrameSink]) -> Work[mx.array]:
    """Take the stages of a run's mode one after another.

    Args:
        run: what is being made.
        sinks: get the frames besides the files that the request names.

    Returns:
        The final latents [C, T, H, W].
    """
    begin: dict[str, Any] = {"sinks": sinks}
    if run.finished_latents is not None:
        mode, begin["latents"] = "decode", run.finished_latents
    elif run.conditioning is not None:
        mode, begin["conditioning"] = "denoise", run.conditioning
    else:
        mode, begin["inputs"], begin["conditioning"] = "generate", unit_inputs(run), {}
    return (yield from run_stages(run, MODES[mode], "latents", begin))


def make_conditioning(run: Run) -> Work[Fields]:
    """Take the encoding stages alone: what a run's `conditioning` holds."""
    begin: dict[str, Any] = {"inputs": unit_inputs(run), "conditioning": {}}
    return (yield from run_stages(run, (TEXT, IMAGE), "conditioning", begin))
