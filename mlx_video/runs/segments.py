"""One clip after another, each from the last frame of the one before, joined into one video."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.events import (
    Event,
    FileWritten,
    Notice,
    StateSaved,
    Value,
    Work,
    WorkPlanned,
    with_events,
)
from mlx_video.media.clip import Video
from mlx_video.media.sources.source_video import open_video
from mlx_video.request import MAX_SEED, RANDOM_SEED, GenerateRequest
from mlx_video.runs.generate import generate
from mlx_video.runs.profile import Profile
from mlx_video.runs.run import Run
from mlx_video.runs.stages.decode import FrameSink
from mlx_video.runs.state.identity import refuse_other_run
from mlx_video.runs.state.kept_segments import KeptSegments, discard_state_of
from mlx_video.runs.state.resume import go_on_hint

Prepare = Callable[[GenerateRequest], Run]

LATENTS_SUFFIX = ".safetensors"
_DECIDE_DECODING = ("decoder", "tiling", "memory_limit", "compile", "kernels", "device_check")
"""Options that hold for the latents that a run goes on from, too."""


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

    The files that the request names hold all segments that are finished. Beside the video, or in a folder of
    temporary files where none is named, these are kept one by one, so that no more than a few frames of them
    are in memory, and an interrupted run goes on in the segment that it was in.

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
    if request.segments == 1 or request.decode_only:
        run = prepare(request)
        if run.request.segments == 1 or request.decode_only:
            return run, (yield from generate(run, extra_sinks))
        request = replace(request, segments=run.request.segments)  # that the inputs make
    with ExitStack() as stack:
        video = request.output_path or Path(stack.enter_context(tempfile.TemporaryDirectory()), "video")
        before = None if request.continue_from is None else open_video(request.continue_from)
        return (yield from _make_all(request, prepare, extra_sinks, KeptSegments(video, before)))


def _make_all(
    request: GenerateRequest, prepare: Prepare, extra_sinks: Sequence[FrameSink], kept: KeptSegments
) -> Work[tuple[Run, mx.array]]:
    """Make all segments that are not kept yet, and let go those that are once the last one is made."""
    total, keeps_all = request.segments, request.keep_state
    prepare = _as_one_video(prepare)
    if request.resume:
        request = yield from _behind_kept(request, prepare, kept)
    else:
        yield from _warn_of_replacing(kept)
    while (number := kept.count + 1) < total:
        yield Notice(f"Segment {number} of {total}.")
        run = replace(prepare(replace(request, keep_state=False)), kept_frames=kept.path(number))
        yield from with_runs_after(
            with_events(generate(run), partial(_report, kept, number, total)), total - number
        )
        kept.count = number
        kept.forget(number + 1)
        yield from _report_kept(request, kept, total)
        request = replace(_following(request, run, kept, run.request.seed, 1), resume=False)
    yield Notice(f"Segment {total} of {total}.")
    run = prepare(request)
    latents = yield from with_events(generate(run, extra_sinks), partial(_report, kept, total, total))
    if keeps_all:
        yield from (FileWritten(kept.path(number)) for number in range(1, total))
    else:
        kept.forget(1)
    return run, latents


def _as_one_video(prepare: Prepare) -> Prepare:
    """Prepares segments that share a profile, and whose results tell of the video as the first settles it."""
    found: list[tuple[Mapping[str, str], Profile | None]] = []

    def prepare_segment(request: GenerateRequest) -> Run:
        run = prepare(request)
        if not found:
            found.append((run.own_settings(), run.profile))
        settings, profile = found[0]
        return replace(run, whole_video=settings, profile=profile)

    return prepare_segment


def _following(
    request: GenerateRequest, run: Run, kept: KeptSegments, seed: int, made: int
) -> GenerateRequest:
    """The request for what comes behind the kept segments.

    Args:
        request: of the segment before, or of the first one.
        run: of either.
        kept: the segments that are finished.
        seed: of the last of them.
        made: how many of those that the request asks for are finished.
    """
    way = run.variant.continuation
    assert way is not None  # a model that makes videos at once has refused
    replaced: dict[str, Any] = dict.fromkeys(way.replaces)
    return replace(
        request,
        continue_from=kept.joined(),
        # Other noise: that of the segment before would repeat its motion.
        seed=seed if way.noise_goes_on else (seed + 1) % (MAX_SEED + 1),
        segments=request.segments - made,
        **replaced,
    )


def _behind_kept(request: GenerateRequest, prepare: Prepare, kept: KeptSegments) -> Work[GenerateRequest]:
    """The request for what comes behind the segments that an earlier run has finished.

    Raises:
        RequestError: they are of another run.
        MediaError: one is damaged.
    """
    total = request.segments
    records = kept.find(total - 1)
    if not records:
        return request
    first, last = records[0], records[-1]
    seed = first.seed if request.seed == RANDOM_SEED else request.seed
    # Later segments follow from the first one; the state of the one under way is compared when it is read.
    own = prepare(replace(request, resume=False, seed=seed))
    refuse_other_run(kept.path(1), first.identity, own.identity)
    discard_state_of(request, last)
    yield Notice(f"Going on after segment {kept.count} of {total}.")
    yield from _report_kept(request, kept, total)
    return _following(request, own, kept, last.seed, len(records))


def _warn_of_replacing(kept: KeptSegments) -> Iterator[Notice]:
    if found := kept.files():
        yield Notice(
            f"{found[0][1]}: the first of {len(found)} finished segments of an earlier run, which --resume "
            "goes on with. They are removed when this run saves its own state."
        )


def _report(kept: KeptSegments, number: int, total: int, event: Event) -> Iterator[Event]:
    """An event of the run of one segment, as one of the whole video."""
    if isinstance(event, StateSaved):
        kept.forget(number)  # of an earlier run, whose state has just been replaced
        yield replace(event, resume_hint=event.resume_hint.after(f"Segment {number} of {total}: "))
    elif not isinstance(event, FileWritten) or number == total:
        yield event


def _report_kept(request: GenerateRequest, kept: KeptSegments, total: int) -> Iterator[StateSaved]:
    """Finished segments, from which the same command goes on; nothing where no video is named."""
    if request.output_path:
        yield StateSaved(
            kept.path(kept.count),
            kept.count,
            total,
            go_on_hint(f"{kept.count} of {total} segments are kept beside {request.output_path}"),
        )


def with_runs_after(work: Work[Value], count: int) -> Work[Value]:
    """Work that says of each run how many like it follow, besides those that it tells of itself."""

    def tell(event: Event) -> tuple[Event]:
        if isinstance(event, WorkPlanned):
            return (replace(event, runs_after=event.runs_after + count),)
        return (event,)

    return with_events(work, tell)


def _with_decoded(request: GenerateRequest, prepare: Prepare) -> Work[GenerateRequest]:
    """A request that goes on from pixels, where it names the latents or the state of a run."""
    place = request.continue_from
    if not (isinstance(place, Path) and place.suffix == LATENTS_SUFFIX):
        return request
    yield Notice(f"{place}: the video to go on from is decoded first.")
    collector = FrameCollector()
    asked = {name: getattr(request, name) for name in _DECIDE_DECODING}
    decoding = GenerateRequest("", decode_only=place, **asked)
    run = prepare(decoding)
    yield from generate(run, [collector])
    return replace(request, continue_from=Video(collector.frames(), run.plan.fps))
