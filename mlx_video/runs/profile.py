"""When each stage, step and block of a run was at work, for chrome://tracing and Perfetto."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video.events import Event, FramesDecoded, FramesEncoded, StageFinished, StepFinished, Value, Work
from mlx_video.files.whole_file import written_whole
from mlx_video.models.block_context import Block, BlockContext
from mlx_video.models.block_order import BlockName
from mlx_video.models.forward import BlockSource

MARK = "mlx_video_profile"
"""Key by which a file is known to be a profile of ours."""
CAPTURE_SWITCH = "MTL_CAPTURE_ENABLED"
"""Variable of the environment without which Metal captures nothing."""
CAPTURED_STEP = 1
"""The second step: the first one also compiles kernels."""
TRACKS = ("stages", "steps", "blocks", "reading")


@dataclass(slots=True)
class Profile:
    """What a run did when.

    Attributes:
        path: of the file.
        clock: seconds.
        entries: in the trace's own form.
        is_capturing: whether Metal writes down a step.
    """

    path: Path
    clock: Callable[[], float] = time.perf_counter
    entries: list[dict[str, Any]] = field(default_factory=list)
    is_capturing: bool = False

    def add(self, track: str, name: str, seconds: float, **facts: object) -> None:
        """Note what has just ended."""
        end = self.clock()
        times = {"ts": (end - seconds) * 1e6, "dur": seconds * 1e6}
        place = {"pid": 1, "tid": TRACKS.index(track) + 1}
        self.entries.append({"name": name, "cat": track, "ph": "X", **times, **place, "args": facts})

    def note_memory(self) -> None:
        """Note what MLX holds now."""
        nbytes = mx.get_active_memory()
        counter = {"name": "memory", "ph": "C", "ts": self.clock() * 1e6, "pid": 1}
        self.entries.append({**counter, "args": {"bytes": nbytes}})

    def note_event(self, event: Event) -> None:
        """Note what an event tells, and the memory at this moment."""
        match event:
            case StageFinished(stage, seconds, peak_bytes):
                self.add("stages", stage, seconds, peak_bytes=peak_bytes)
            case StepFinished(index, _, timestep, seconds):
                self.add("steps", f"step {index + 1}", seconds, timestep=timestep)
                self._capture(index + 1)
            case FramesEncoded() | FramesDecoded():
                pass
            case _:
                return
        self.note_memory()

    def _capture(self, next_index: int) -> None:
        """Let Metal write down one step, where the environment lets it."""
        if self.is_capturing:
            mx.metal.stop_capture()
            self.is_capturing = False
        elif next_index == CAPTURED_STEP and os.environ.get(CAPTURE_SWITCH) == "1":
            # A folder of that name must not be there; without a GPU there is nothing to capture.
            with suppress(RuntimeError):
                mx.metal.start_capture(str(self.path.with_suffix(".gputrace")))
                self.is_capturing = True

    def watch(self, blocks: BlockSource) -> BlockSource:
        """A source of the same blocks, each of whose turns is noted."""
        return _WatchedBlocks(blocks, self)

    def write(self) -> None:
        """Write the file, also of a run that has not come to its end.

        Raises:
            MediaError: the file cannot be written.
        """
        names = [
            {"name": "thread_name", "ph": "M", "pid": 1, "tid": tid, "args": {"name": track}}
            for tid, track in enumerate(TRACKS, 1)
        ]
        trace = {MARK: 1, "displayTimeUnit": "ms", "traceEvents": names + self.entries}
        with written_whole(self.path) as temporary:
            temporary.write_text(json.dumps(trace), encoding="utf-8")


class _WatchedBlocks:
    """Blocks that evaluate their results, so that the time of each is its own."""

    def __init__(self, source: BlockSource, profile: Profile) -> None:
        self.shares_blocks = source.shares_blocks
        self._source = source
        self._profile = profile

    def blocks(self, names: Sequence[BlockName]) -> Iterator[Block]:
        """The blocks of these names, in their order; the wait for each is noted."""
        asked, clock = self._profile.clock(), self._profile.clock
        for name, block in zip(names, self._source.blocks(names), strict=False):
            if self.shares_blocks:
                self._profile.add("reading", f"wait for {name}", clock() - asked)
            yield self._watch(str(name), block)
            asked = clock()

    def _watch(self, title: str, block: Block) -> Block:
        def run(x: mx.array, context: BlockContext) -> mx.array:
            mx.eval(x)  # what hooks have left to do is not the block's
            started = self._profile.clock()
            y = block(x, context)
            mx.eval(y)
            self._profile.add("blocks", title, self._profile.clock() - started)
            return y

        return run


def profiled(profile: Profile | None, work: Work[Value]) -> Work[Value]:
    """Let work go on as it would, and write down when it did what; the file is written however it ends."""
    if profile is None:
        return (yield from work)
    try:
        with closing(work):
            while True:
                try:
                    event = next(work)
                except StopIteration as end:
                    return end.value
                profile.note_event(event)
                yield event
    finally:
        profile.write()


def is_profile(path: Path) -> bool:
    """Whether a file is a profile that an earlier run wrote."""
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="utf-8") as file:
        return file.read(len(MARK) + 8).startswith(f'{{"{MARK}": ')
    return False
