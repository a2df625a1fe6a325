"""What a video made block by block goes on from: finished blocks in a file, the one in work in the state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlx_video.events import Notice, StateSaved, StepFinished
from mlx_video.latents.block_file import BlockFile, block_path
from mlx_video.latents.run_state import RunState, find_state_path
from mlx_video.runs.run import Run
from mlx_video.runs.state.resume import save_and_tell
from mlx_video.sampling.sampler_state import SamplerState


@contextmanager
def open_blocks(run: Run) -> Iterator[BlockFile]:
    """The file of a run's finished blocks: beside its video, where it goes with the state, or a nameless one.

    Raises:
        MediaError: the blocks that the run goes on from cannot be read.
    """
    video, plan = run.request.output_path, run.plan
    assert plan.blocks is not None
    owner = hashlib.sha256(json.dumps(dict(run.identity), sort_keys=True).encode()).hexdigest()[:32]
    steps = plan.steps // plan.blocks.count
    with BlockFile(video and block_path(video), plan.step_shape, owner) as finished:
        yield finished.go_on(run.state.next_step // steps if run.state else 0)


def keep_block_step(
    run: Run, event: StepFinished, memory: SamplerState, *, is_last: bool
) -> Iterator[Notice | StateSaved]:
    """Write the run's state after a step, if one is due; behind the last step of the video none is.

    Args:
        run: what is being made.
        event: of the step just taken, among those of all blocks.
        memory: of the sampler, after this step.
        is_last: whether it ends a block.
    """
    path, done, every = find_state_path(run.request), event.index + 1, run.request.checkpoint_every
    if path is not None and done < event.total and (is_last or (every and done % every == 0)):
        state = RunState(event.latents, done, event.total, run.settings(), run.identity, memory.arrays())
        yield from save_and_tell(run, path, state)


def keep_whole(run: Run, latents: mx.array) -> Iterator[Notice | StateSaved]:
    """Write a finished run's state with all latents [C, T, H, W], where the user wants to keep one."""
    path, steps = find_state_path(run.request), run.plan.steps
    if path is not None and run.request.keep_state:
        yield from save_and_tell(run, path, RunState(latents, steps, steps, run.settings(), run.identity))
