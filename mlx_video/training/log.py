"""What was measured at each step: log.jsonl, TensorBoard's events, and a picture of the losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlx_video.errors import MediaError, RequestError
from mlx_video.files.whole_file import written_whole

LOG_FILE = "log.jsonl"
PLOT_FILE = "loss.png"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step.

    Attributes:
        step: counts from 1.
        loss: mean over the examples.
        learning_rate: that it was taken with.
        gradient_norm: before the gradient was cut.
        seconds: that it took.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float


class TrainingLog:
    """Appends every step to log.jsonl, and to TensorBoard's events where they are asked for.

    Args:
        folder: of the logs.
        first_step: how many steps there are; what an earlier sitting wrote beyond them is dropped.
        tensorboard: whether its events are written.

    Raises:
        MediaError: the file cannot be written.
        RequestError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_step: int, *, tensorboard: bool) -> None:
        self._path = folder / LOG_FILE
        self._events = _open_events(folder) if tensorboard else None
        kept = [record for record in read_log(folder) if record.step <= first_step]
        with written_whole(self._path) as temporary:
            temporary.write_text("".join(map(_line, kept)), encoding="utf-8")

    def add(self, record: StepRecord) -> None:
        """Note a step.

        Raises:
            MediaError: the system refuses to write.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
        except OSError as error:
            raise MediaError(f"{self._path}: cannot be written ({error.strerror}).") from error
        if self._events:
            self._events.add(record)

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        if self._events:
            self._events.close()


def read_log(folder: Path) -> list[StepRecord]:
    """The steps that are noted in a folder, in order; a line that was cut off is left out."""
    records: list[StepRecord] = []
    with suppress(FileNotFoundError):
        for line in (folder / LOG_FILE).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):
                records.append(StepRecord(**json.loads(line)))
    return records


def _line(record: StepRecord) -> str:
    return f"{json.dumps(asdict(record))}\n"


class _Events:
    """TensorBoard's events of a folder."""

    def __init__(self, writer: Any, event: Any, summary: Any) -> None:
        self._writer, self._event, self._summary = writer, event, summary

    def add(self, record: StepRecord) -> None:
        numbers = asdict(record)
        step = numbers.pop("step")
        values = [self._summary.Value(tag=tag, simple_value=number) for tag, number in numbers.items()]
        self._writer.add_event(self._event(step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


def _open_events(folder: Path) -> _Events:
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise RequestError(
            "tensorboard", "needs the package tensorboard. Run `pip install mlx-video[tensorboard]`."
        ) from error
    return _Events(EventFileWriter(str(folder)), Event, Summary)


_WIDTH, _HEIGHT, _MARGIN = 960, 480, 60
_GREY, _LIGHT, _BLUE = (90, 90, 90), (200, 210, 235), (30, 80, 190)
_SMOOTHED_SHARE = 20


def draw_losses(folder: Path) -> Path | None:
    """Draw the losses of a log, and their moving mean, as a PNG; None where there are none.

    Raises:
        MediaError: the system refuses to write.
    """
    from PIL import Image, ImageDraw

    losses = [record.loss for record in read_log(folder)]
    if not losses:
        return None
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(picture)
    low, high = min(losses), max(losses)
    right, bottom = _WIDTH - _MARGIN // 2, _HEIGHT - _MARGIN
    pen.line([(_MARGIN, _MARGIN // 2), (_MARGIN, bottom), (right, bottom)], fill=_GREY)
    for value, height in ((low, bottom), (high, _MARGIN // 2)):
        pen.text((4, height - 6), f"{value:.4g}", fill=_GREY)
    pen.text((right - 90, bottom + 10), f"step {len(losses)}", fill=_GREY)
    pen.text((_MARGIN, bottom + 10), "loss, and its moving mean", fill=_GREY)
    for series, colour, width in ((losses, _LIGHT, 1), (_moving_mean(losses), _BLUE, 2)):
        points = [
            (
                _MARGIN + number / max(1, len(series) - 1) * (right - _MARGIN),
                bottom - (value - low) / ((high - low) or 1) * (bottom - _MARGIN // 2),
            )
            for number, value in enumerate(series)
        ]
        pen.line(points * 2 if len(points) == 1 else points, fill=colour, width=width)
    path = folder / PLOT_FILE
    with written_whole(path) as temporary:
        picture.save(temporary, "PNG")
    return path


def _moving_mean(values: Sequence[float]) -> list[float]:
    width = max(1, len(values) // _SMOOTHED_SHARE)
    means, total = [], 0.0
    for number, value in enumerate(values):
        total += value - (values[number - width] if number >= width else 0.0)
        means.append(total / min(number + 1, width))
    return means
