"""Events in words: what is counted, what is told, and how times and sizes are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_video.events import (
    BlocksRead,
    BytesChecked,
    BytesDownloaded,
    BytesWritten,
    CaptionsEncoded,
    ClipsRead,
    Event,
    ExamplesEncoded,
    FramesDecoded,
    FramesEncoded,
    MemoryPlanned,
    Notice,
    OperationsChecked,
    StageFinished,
    StageStarted,
    StepFinished,
    TilesDecoded,
    TrainingStepFinished,
    VideoStarted,
)

if TYPE_CHECKING:
    from mlx_video.progress.tally import Tally, Timing

GB = 1e9


@dataclass(frozen=True, slots=True)
class Count:
    """How far something is.

    Attributes:
        label: what is counted; one count follows another of the same label.
        done, total: in units.
        unit: "step", "frame", "B" for bytes.
    """

    label: str
    done: int
    total: int
    unit: str


def count_of(event: Event) -> Count | None:
    """What an event counts; None for one that counts nothing."""
    match event:
        case StepFinished(index, total) | TrainingStepFinished(index, total):
            return Count("steps", index + 1, total, "step")
        case BlocksRead(done, total):
            return Count("blocks", done, total, "block")
        case TilesDecoded(done, total):
            return Count("tiles", done, total, "part")
        case FramesEncoded(done, total) | FramesDecoded(done, total):
            return Count("frames", done, total, "frame")
        case OperationsChecked(done, total):
            return Count("operations", done, total, "operation")
        case ClipsRead(done, total):
            return Count("clips", done, total, "clip")
        case CaptionsEncoded(done, total):
            return Count("captions", done, total, "caption")
        case ExamplesEncoded(done, total):
            return Count("examples", done, total, "example")
        case BytesDownloaded(done, total):
            return Count("download", done, total, "B")
        case BytesChecked(done, total):
            return Count("checksums", done, total, "B")
        case BytesWritten(component, done, total):
            return Count(component, done, total, "B")
    return None


def messages_of(event: Event) -> Iterator[str]:
    """Lines for people that an event is worth; results are not among them."""
    match event:
        case Notice(text):
            yield text
        case VideoStarted(index, total, name, part):
            yield f"video {index + 1} of {total}: {name}{f', {part}' if part else ''}"
        case StageStarted(stage):
            yield f"{stage} ..."
        case MemoryPlanned(_, reused, kept):
            if reused:
                yield f"in memory from an earlier run: {', '.join(reused)}"
            if kept:
                yield f"kept in memory for the next run: {', '.join(kept)}"
        case StageFinished(stage, wall_seconds, peak_bytes):
            yield f"{stage}: {wall_seconds:.1f} s, peak memory {in_gb(peak_bytes)} GB"


def is_told(event: TrainingStepFinished) -> bool:
    """Whether a step of a training is worth a line: the first, the last, and about a hundred between."""
    return event.index in (0, event.total - 1) or (event.index + 1) % max(1, event.total // 100) == 0


def describe_loss(event: TrainingStepFinished) -> str:
    """What was measured at a step of a training."""
    return f"loss {event.loss:.4f}, learning rate {event.learning_rate:.2e}"


def summary_of(tally: Tally) -> Iterator[str]:
    """Lines for people at the end of a run: its time and memory, and what was predicted of it."""
    if tally.stages:
        peak = f", peak memory {in_gb(tally.peak_bytes)} GB" if tally.peak_bytes else ""
        yield f"done in {in_words(tally.elapsed)}{peak}"
    both = [stage for stage in tally.stages if stage in tally.predicted]
    if both:
        pairs = (
            f"{stage} {in_gb(tally.stages[stage].peak_bytes)} ({in_gb(tally.predicted[stage])})"
            for stage in both
        )
        yield f"peak memory in GB, and as planned: {', '.join(pairs)}"


def describe_timing(timing: Timing, unit: str) -> str:
    """Time so far, time left and rate: "0:36, about 3:24 left, 12.1 s/step"."""
    parts = [in_words(timing.elapsed)]
    if timing.left is not None:
        behind = f", then {timing.left.without[0]}" if timing.left.without else ""
        parts.append(f"about {in_words(timing.left.seconds)} left{behind}")
    if timing.seconds_each:
        parts.append(describe_rate(timing.seconds_each, unit))
    return ", ".join(parts)


def describe_rate(seconds_each: float, unit: str) -> str:
    """How fast it goes, as a number that is not below 1."""
    if unit == "B":
        return f"{1 / seconds_each / 1e6:.1f} MB/s"
    if seconds_each >= 1:
        return f"{seconds_each:.1f} s/{unit}"
    return f"{1 / seconds_each:.1f} {unit}s/s"


def describe_count(count: Count) -> str:
    """How far something is: "step 3 of 20", "download 1.20 of 28.00 GB"."""
    if count.unit == "B":
        return f"{count.label} {in_gb(count.done)} of {in_gb(count.total)} GB"
    if count.unit == "step":
        return f"step {count.done} of {count.total}"
    return f"{count.label} {count.done} of {count.total}"


def in_words(seconds: float) -> str:
    """A time as clocks show it: "0:36", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def in_gb(size: float) -> str:
    """Bytes as a number of GB."""
    return f"{size / GB:.2f}"
