"""One clip after another, each from the last frame of the one before, joined into one video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_video.events import Notice, Work
from mlx_video.media.clip import Video
from mlx_video.request import MAX_SEED, GenerateRequest
from mlx_video.runs.generate import generate
from mlx_video.runs.run import Run
from mlx_video.runs.stages.decode import FrameSink

Prepare = Callable[[GenerateRequest], Run]

LATENTS_SUFFIX = ".safetensors"


class FrameCollector:
    """Keeps the frames of a run in memory."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []

    def write(self, frames: np.ndarray) -> None:
        """Take uint8 frames [f, H, W, 3]."""
        self.chunks.append(frames)

    def frames(self) -> np.ndarray:
        """All frames so far, uint8 [F, H, W, 3]."""
        return np.concatenate(self.chunks)

    def video(self, run: Run, latents: mx.array) -> Video:
        """What a run has made; it has no frames where only latents were asked for."""
        width, height = run.plan.geometry.output_size
        frames = self.frames() if self.chunks else np.zeros((0, height, width, 3), np.uint8)
        return Video(frames, run.plan.fps, latents, run.settings())


def generate_segments(
    request: GenerateRequest, prepare: Prepare, extra_sinks: Sequence[FrameSink] = ()
) -> Work[tuple[Run, mx.array]]:
    """Make the segments of a video, or the one clip that most requests ask for.

    The files that the request names hold all segments that are finished.

    Args:
        request: what the user asked for.
        prepare: makes a run of a request.
        extra_sinks: get the frames of the whole video besides the files that the request names.

    Yields:
        What happens, in order.

    Returns:
        The last run and its latents [C, T, H, W].

    Raises:
        MLXVideoError: as `runs.generate`.
    """
    request = yield from _with_decoded(request, prepare)
    for number in range(1, request.segments):
        yield Notice(f"Segment {number} of {request.segments}.")
        collector = FrameCollector()
        run = prepare(request)
        yield from generate(run, [collector])
        request = replace(
            request,
            continue_from=Video(collector.frames(), run.plan.fps),
            image=None,
            # Other noise: that of the segment before would repeat its motion.
            seed=(run.request.seed + 1) % (MAX_SEED + 1),
        )
    if request.segments > 1:
        yield Notice(f"Segment {request.segments} of {request.segments}.")
    run = prepare(request)
    return run, (yield from generate(run, extra_sinks))


def _with_decoded(request: GenerateRequest, prepare: Prepare) -> Work[GenerateRequest]:
    """A request that goes on from pixels, where it names the latents or the state of a run."""
    place = request.continue_from
    if not (isinstance(place, Path) and place.suffix == LATENTS_SUFFIX):
        return request
    yield Notice(f"{place}: the video to go on from is decoded first.")
    collector = FrameCollector()
    decoding = GenerateRequest(
        "", decode_only=place, tiling=request.tiling, memory_limit=request.memory_limit
    )
    run = prepare(decoding)
    yield from generate(run, [collector])
    return replace(request, continue_from=Video(collector.frames(), run.plan.fps))
