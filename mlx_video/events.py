"""What happens while work goes on; whoever lets it go on decides what to show."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlx_video.quoting import escaped, printable

if TYPE_CHECKING:
    import mlx.core as mx
    import numpy as np


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know: an adjusted size, a corrected config, a choice made for them.

    Attributes:
        text: a sentence; control codes in what it quotes are written out.
    """

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", printable(self.text))


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins: "text", "image", "denoise", "decode", or a component's name while converting."""

    stage: str


@dataclass(frozen=True, slots=True)
class MemoryPlanned:
    """What a run will keep in memory.

    Attributes:
        predicted: stage → most bytes of MLX memory that it is expected to hold.
        reused: the networks that are in memory from an earlier run, in words for people.
        kept: the networks that stay in memory for the next run.
    """

    predicted: Mapping[str, int]
    reused: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkPlanned:
    """What a run has to do, as far as its time depends on it; comes before its first stage.

    Attributes:
        stages: names of those that may come, in order.
        step_weights: forwards of every step of the run, from its first; those that a step cache is sure to
            leave out do not count.
        first_step: that is still to be taken.
        loading_steps: before which a transformer is loaded.
        weights_are_certain: whether no step cache decides on the way which forwards are left out.
        decoded_pixels: of all frames that are decoded.
        speed_key: stands for everything on which the time of stages and forwards depends.
        decode_key: the same for a pixel of decoding.
        runs_after: further runs of about the same work, which follow in the same command or call.
    """

    stages: tuple[str, ...]
    step_weights: tuple[float, ...]
    first_step: int
    loading_steps: tuple[int, ...]
    weights_are_certain: bool
    decoded_pixels: int
    speed_key: str
    decode_key: str
    runs_after: int = 0


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended; its peak of MLX memory counts everything alive at that moment."""

    stage: str
    wall_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class StepFinished:
    """One sampling step is done.

    Attributes:
        index: counts from 0.
        total: number of steps in the run.
        timestep: what the transformer saw, 0 to 1000.
        wall_seconds: time of this step.
        latents: [C, T, H, W], float32, evaluated.
        peak_bytes: most MLX memory since the stage began.
        clean: [C, T, H, W], float32, evaluated: what the step takes for the latents without noise; None
            where whoever runs the loop did not ask for it.
    """

    index: int
    total: int
    timestep: float
    wall_seconds: float
    latents: mx.array
    peak_bytes: int = 0
    clean: mx.array | None = None


@dataclass(frozen=True, slots=True)
class TrainingStepFinished:
    """One update of the trained weights is done.

    Attributes:
        index: counts from 0.
        total: number of steps of the training.
        loss: mean over the step's examples.
        learning_rate: that it was taken with.
        wall_seconds: time of this step.
        peak_bytes: most MLX memory since the stage began.
    """

    index: int
    total: int
    loss: float
    learning_rate: float
    wall_seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class PreviewMade:
    """What the video would be if all noise left were taken away at once, small.

    Attributes:
        index: of the step, counts from 0.
        total: number of steps in the run.
        frames: uint8 [f, h, w, 3], one for each latent frame.
        fps: at which they play as fast as the video.
        path: the file that shows it already; None where whoever has the event is to show it.
    """

    index: int
    total: int
    frames: np.ndarray
    fps: float
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class BlocksRead:
    """Blocks so far of the text encoder, each used for every text, and dropped if it was read for that."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class FramesEncoded:
    """Frames so far of the clip being encoded."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TilesDecoded:
    """Parts so far of a video decoded tile by tile; its frames come when all are done."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class FramesDecoded:
    """Frames so far of the video being decoded."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class BytesDownloaded:
    """Bytes so far of what is downloaded from the Hub; those of an earlier run count from the start."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class BytesChecked:
    """Bytes so far of what was downloaded that are compared with their checksums."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class BytesWritten:
    """Bytes so far of the component being written."""

    component: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ResumeHint:
    """How to go on with what was interrupted.

    Attributes:
        command: for users of the commands, with flags.
        python: for callers in Python, with arguments.
    """

    command: str
    python: str

    def after(self, text: str) -> ResumeHint:
        """The same behind some words."""
        return ResumeHint(text + self.command, text + self.python)


@dataclass(frozen=True, slots=True)
class StateSaved:
    """From here on the run can be interrupted without loss.

    Attributes:
        path: the file of the run's state, or of a finished segment of a video.
        done: steps that it holds; or segments that are kept.
        total: number of steps in the run, or of segments in the video.
        resume_hint: what to tell the user if the run ends here.
    """

    path: Path
    done: int
    total: int
    resume_hint: ResumeHint


@dataclass(frozen=True, slots=True)
class OperationsChecked:
    """Operations so far of the check of the device."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ClipsRead:
    """Clips of a dataset so far that were looked at: their size, their length, and what they hold."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class CaptionsEncoded:
    """Captions of a dataset so far, of those that were still to be encoded."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class ExamplesEncoded:
    """Examples of a dataset so far, of those that were still to be encoded."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class VideoStarted:
    """A video of a list is begun, or gone on with.

    Attributes:
        index: counts from 0.
        total: videos of the list.
        name: what people call it: the name of its file, or its prompt.
        part: of its making, where the list is made part by part; "" for all of it.
    """

    index: int
    total: int
    name: str
    part: str = ""


@dataclass(frozen=True, slots=True)
class VideoFailed:
    """A video of a list is not made, and the list goes on; `error` says why."""

    index: int
    total: int
    name: str
    error: Exception


@dataclass(frozen=True, slots=True)
class TextResult:
    """Text that the user asked for, such as a table; control codes in what it quotes are written out."""

    text: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", escaped(self.text))


@dataclass(frozen=True, slots=True)
class FileWritten:
    """A result is complete under its final name."""

    path: Path


@dataclass(frozen=True, slots=True)
class FileUploaded:
    """A result is complete at an address, and no more here."""

    address: str


Event = (
    Notice
    | MemoryPlanned
    | WorkPlanned
    | StageStarted
    | StageFinished
    | StepFinished
    | TrainingStepFinished
    | PreviewMade
    | StateSaved
    | BlocksRead
    | FramesEncoded
    | TilesDecoded
    | FramesDecoded
    | BytesDownloaded
    | BytesChecked
    | BytesWritten
    | OperationsChecked
    | ClipsRead
    | CaptionsEncoded
    | ExamplesEncoded
    | VideoStarted
    | VideoFailed
    | TextResult
    | FileWritten
    | FileUploaded
)

Value = TypeVar("Value")
Reported = TypeVar("Reported")
Told = TypeVar("Told")
Work = Generator[Event, None, Value]
"""Work that yields what happens, and returns its result."""


def finish(work: Work[Value], on_event: Callable[[Event], None]) -> Value:
    """Let work go on to its end, and give what it returns; it is closed where `on_event` raises an error."""
    with closing(work):
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                return end.value
            on_event(event)


def with_events(
    work: Generator[Reported, None, Value], events_of: Callable[[Reported], Iterable[Told]]
) -> Generator[Told, None, Value]:
    """Work that yields other events in place of each thing that it reports, and returns the same."""
    with closing(work):
        while True:
            try:
                reported = next(work)
            except StopIteration as end:
                return end.value
            yield from events_of(reported)
