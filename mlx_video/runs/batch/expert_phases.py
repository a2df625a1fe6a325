"""Two experts that do not fit in memory together, each loaded once for a list instead of once for each video.

Every video of the list takes its steps with the high-noise expert, and waits on disk as the state of an
interrupted run; then each takes those with the low-noise expert. What is saved is gigabytes of weights for
every video; what it costs is tens of megabytes of state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx

from mlx_video.events import Event, StateSaved, StepFinished, VideoStarted
from mlx_video.latents.array_file import read_arrays, write_arrays
from mlx_video.request import GenerateRequest
from mlx_video.runs.batch.item import BatchItem, BatchResult, failed
from mlx_video.runs.generate import generate, within_limits
from mlx_video.runs.modes import make_conditioning
from mlx_video.runs.run import Run
from mlx_video.runs.segments import FrameCollector
from mlx_video.sampling.experts import count_high_noise_steps

WORTH_BYTES = 2e9
"""Weights whose reading is taken to cost as much as a video's phases, each of which is prepared and kept on
disk: an estimate, not measured."""

Prepare = Callable[[GenerateRequest], Run]
Making = Generator[Event | BatchResult, None, None]


def swaps_experts(run: Run) -> bool:
    """Whether a list of such runs gains by letting experts take turns: both work, and do not fit together."""
    request, recipe, memory = run.request, run.plan.recipe, run.plan.memory
    is_plain = request.experts == "relay" and request.segments == 1 and request.continue_from is None
    if recipe is None or recipe.expert_split is None or not is_plain or not run.session.keeps:
        return False
    is_split = 0 < _swap_step(run) < run.plan.steps
    fits_together = set(run.model.transformers) <= memory.kept
    return is_split and not fits_together and _saved_bytes(run) > WORTH_BYTES


def _saved_bytes(run: Run) -> float:
    """Weights that are read once for a list instead of once for each video; streamed ones are read anyway."""
    total = sum(path.stat().st_size for path in run.model.transformers.values())
    resident = run.plan.memory.resident_blocks
    return total if resident is None else total * resident / run.config.transformer.num_layers


def _swap_step(run: Run) -> int:
    recipe = run.plan.recipe
    assert recipe is not None  # its latents are not there yet
    return count_high_noise_steps(recipe.schedule, recipe.expert_split) if recipe.expert_split else 0


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A video between two phases.

    Attributes:
        item: the video.
        request: as it is gone on with; it names the state.
        conditioning: file of what the encoders made of its inputs.
    """

    item: BatchItem
    request: GenerateRequest
    conditioning: Path


@dataclass(frozen=True, slots=True)
class ExpertPhases:
    """Makes the videos of a list phase by phase.

    Attributes:
        prepare: makes a run of a request.
        collects: whether results hold the frames.
    """

    prepare: Prepare
    collects: bool = False

    def make(self, items: Sequence[BatchItem]) -> Making:
        """Make videos for which :func:`swaps_experts` holds; one that fails is left out of later phases."""
        with TemporaryDirectory(prefix="mlx-video-batch-") as folder:
            waiting: list[_Waiting] = []
            for item in items:
                waiting += yield from self._guarded(item, "inputs", self._encode(item, Path(folder)))
            for phase, title in ((self._take_high_steps, "high noise"), (self._take_low_steps, "low noise")):
                later: list[_Waiting] = []
                for one in waiting:
                    later += yield from self._guarded(one.item, title, phase(one))
                waiting = later
            for one in waiting:
                yield from self._guarded(one.item, "decode", self._decode(one))

    def _guarded(self, item: BatchItem, part: str, work: _Phase) -> _Phase:
        """One phase of one video; it waits for no other once it failed."""
        yield VideoStarted(item.index, item.total, item.name, part)
        try:
            return (yield from work)
        except Exception as error:
            yield from failed(item, error)
            return []

    def _encode(self, item: BatchItem, folder: Path) -> _Phase:
        request = item.request
        if request.output_path is None:
            request = replace(request, output_path=folder / f"{item.index}.webp")
        run = self.prepare(request)
        fields = yield from within_limits(run, make_conditioning(run))
        path = folder / f"{item.index}.conditioning.safetensors"
        arrays = {name: value for name, value in fields.items() if isinstance(value, mx.array)}
        if any(value is not None and name not in arrays for name, value in fields.items()):
            # Add-ons are functions of networks, which no file holds: such a video is made whole.
            yield from self._finish(item, replace(run, conditioning=fields))
            return []
        write_arrays(path, arrays, {})
        return [_Waiting(item, run.request, path)]

    def _take_high_steps(self, one: _Waiting) -> _Phase:
        run = self._resumed(one)
        swap = _swap_step(run)
        if run.state is not None and run.state.next_step >= swap:
            return [one]  # by an earlier run of the list
        every = run.request.checkpoint_every
        due = replace(run.request, checkpoint_every=math.gcd(every, swap) if every else swap)
        run = _keeping(replace(run, request=due), "high_noise")
        return (yield from self._take_until(one, run, swap))

    def _take_low_steps(self, one: _Waiting) -> _Phase:
        run = self._resumed(one)
        if run.finished_latents is not None:
            return [one]
        if "low_noise" in run.plan.memory.kept:  # beside the decoder too
            yield from self._finish(one.item, run)
            return []
        return (yield from self._take_until(one, _keeping(run, "low_noise"), run.plan.steps))

    def _decode(self, one: _Waiting) -> _Phase:
        yield from self._finish(one.item, self._resumed(one))
        return []

    def _resumed(self, one: _Waiting) -> Run:
        """A run that goes on from its state, if there is one by now; it has told its notices before."""
        run = self.prepare(one.request)
        fields, _ = read_arrays(one.conditioning)
        return replace(run, conditioning=fields, plan=replace(run.plan, notices=()))

    def _take_until(self, one: _Waiting, run: Run, stop: int) -> _Phase:
        """Take steps until the state holds `stop` of them; where none can be kept, make the whole video."""
        collector = FrameCollector()
        saved = 0
        with closing(generate(run, [collector] if self.collects else [])) as work:
            while True:
                try:
                    event = next(work)
                except StopIteration as end:
                    yield self._result(one.item, run, collector, end.value)
                    return []
                yield event
                saved = event.done if isinstance(event, StateSaved) else saved
                if isinstance(event, StepFinished) and saved == stop:
                    return [replace(one, request=replace(run.request, resume=True))]

    def _finish(self, item: BatchItem, run: Run) -> Making:
        if item.request.output_path is None:
            run = replace(run, request=replace(run.request, output_path=None, resume=False))
        collector = FrameCollector()
        latents = yield from generate(run, [collector] if self.collects else [])
        yield self._result(item, run, collector, latents)

    def _result(self, item: BatchItem, run: Run, collector: FrameCollector, latents: mx.array) -> BatchResult:
        return BatchResult(item.index, item.request, collector.video(run, latents) if self.collects else None)


_Phase = Generator[Event | BatchResult, None, list[_Waiting]]
"""One phase of one video: yields what happens, and returns it if it waits for the next."""


def _keeping(run: Run, expert: str) -> Run:
    """A run that leaves this expert in memory for the next video, and nothing else."""
    memory = replace(run.plan.memory, kept=frozenset({expert}))
    return replace(run, plan=replace(run.plan, memory=memory))
