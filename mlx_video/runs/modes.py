"""What a run can be, each a list of stages; a new stage is a file in `stages` and its name in a list here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_video.conditioning.units import Fields
from mlx_video.events import Work
from mlx_video.runs.inputs import unit_inputs
from mlx_video.runs.run import Run
from mlx_video.runs.stages.blocks import BLOCKS
from mlx_video.runs.stages.colours import COLOURS, known_colours
from mlx_video.runs.stages.decode import DECODE, FrameSink
from mlx_video.runs.stages.denoise import DENOISE
from mlx_video.runs.stages.encode import AUDIO, BEFORE, IMAGE, TEXT
from mlx_video.runs.stages.keep import KEEP
from mlx_video.runs.stages.save_latents import SAVE_LATENTS
from mlx_video.runs.stages.stage import Stage, run_stages

MODES: dict[str, tuple[Stage, ...]] = {
    "generate": (TEXT, AUDIO, IMAGE, COLOURS, BEFORE, DENOISE, SAVE_LATENTS, DECODE),
    "denoise": (COLOURS, BEFORE, DENOISE, SAVE_LATENTS, DECODE),
    "keep": (IMAGE, KEEP, SAVE_LATENTS, DECODE),
    "decode": (SAVE_LATENTS, DECODE),
    "decode behind": (IMAGE, BEFORE, SAVE_LATENTS, DECODE),
    "blocks": (TEXT, COLOURS, BLOCKS, SAVE_LATENTS),
}
"""Name of a mode → its stages. "generate" makes a video from what the user gave, with images or without;
"denoise" from conditioning that is there; "keep" makes nothing of it anew; "decode" makes it from latents
that are there; "decode behind" does so behind others that are made anew; "blocks" makes it from text block by
block."""


def mode_of(run: Run) -> tuple[Stage, ...]:
    """The stages of a run."""
    if run.finished_latents is not None:
        return MODES["decode behind" if decodes_behind(run) else "decode"]
    if run.plan.blocks:
        return MODES["blocks"]
    if run.conditioning is not None:
        return MODES["denoise"]
    return MODES["generate" if run.request.takes_steps else "keep"]


def decodes_behind(run: Run) -> bool:
    """Whether the decoder sees other latents before those of a run."""
    way = run.variant.continuation
    return way is not None and way.extra_frames > 0


def make_video(run: Run, sinks: Sequence[FrameSink]) -> Work[mx.array]:
    """Take the stages of a run's mode one after another.

    Args:
        run: what is being made.
        sinks: get the frames besides the files that the request names.

    Returns:
        The final latents [C, T, H, W].
    """
    begin: dict[str, Any] = {"sinks": sinks, "latents_before": None}
    if run.finished_latents is not None:
        begin["latents"] = run.finished_latents
        if decodes_behind(run):
            begin |= {"conditioning": {}, "inputs": unit_inputs(run)}
    else:
        begin["colours"], begin["conditioning"] = known_colours(run), run.conditioning or {}
        if run.conditioning is None:
            begin["inputs"] = unit_inputs(run)
    return (yield from run_stages(run, mode_of(run), "latents", begin))


def make_conditioning(run: Run) -> Work[Fields]:
    """Take the encoding stages alone: what a run's `conditioning` holds."""
    begin: dict[str, Any] = {"inputs": unit_inputs(run), "conditioning": {}}
    return (yield from run_stages(run, (TEXT, AUDIO, IMAGE), "conditioning", begin))
