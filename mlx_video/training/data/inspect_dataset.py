"""What a training would see of a dataset: buckets, counts, what is missing, and a picture of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_video.config import ModelConfig
from mlx_video.errors import MLXVideoError
from mlx_video.events import Event, FileWritten, Notice, TextResult, Work
from mlx_video.files.whole_file import check_file
from mlx_video.tables import text_table
from mlx_video.training.data.batch_order import Bucket, fill_buckets
from mlx_video.training.data.clips import Dataset, Table
from mlx_video.training.data.contact_sheet import (
    MOST_SHOWN,
    Cell,
    choose_evenly,
    draw_cell,
    write_sheet,
)
from mlx_video.training.data.example_plan import Learner, PlannedExample, Survey, find_learner, survey_dataset
from mlx_video.training.data.example_run import read_frames
from mlx_video.training.data.finished_latents import is_latents
from mlx_video.training.data.model_inputs import find_unread

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MOST_LISTED = 20

_Kind = tuple[int, int, int, str]
"""Width, height, frames and inputs of examples that one batch may hold."""


def inspect_dataset(
    dataset: Dataset,
    config: ModelConfig,
    sheet: Path,
    *,
    extra_inputs: str | None = None,
    distill_steps: int | None = None,
) -> Work[None]:
    """Tell what a training would see, and draw a contact sheet; nothing is encoded.

    Args:
        dataset: from `read_dataset`.
        config: of the model that would learn.
        sheet: PNG to draw.
        extra_inputs: as in :class:`mlx_video.request.dataset.DatasetOptions`.
        distill_steps: that a student learns to do with; None for no student.

    Yields:
        How far it is, the text, and the sheet.

    Raises:
        MediaError: the sheet cannot be written.
    """
    check_file(sheet)
    learner = find_learner(config, extra_inputs, distill_steps)
    yield from report_tables(dataset, learner)
    survey = yield from survey_dataset(dataset, learner, keeps=False)
    cells = _draw_examples(survey, learner)
    yield TextResult(describe_survey(dataset, survey))
    if cells:
        write_sheet(sheet, cells)
        yield FileWritten(sheet)


def report_tables(dataset: Dataset, learner: Learner) -> Iterator[Event]:
    """Say what was decided for the user, and what the model does not read."""
    for table in dataset.tables:
        yield from map(Notice, table.notices)
        if names := find_unread(table, learner.variant):
            yield Notice(f"{table.name}: {learner.variant.title} does not read {', '.join(names)}.")
        told = {name for clip in table.clips for name in clip.run if not is_latents(clip.path)}
        if told and learner.distill_steps is None:
            yield Notice(f"{table.name}: {', '.join(sorted(told))} count for --task direct-distill alone.")


def _draw_examples(survey: Survey, learner: Learner) -> list[Picture]:
    """Drawn examples; what cannot be read after all joins the survey's list."""
    shown = [example for example in survey.examples if not is_latents(example.clip.path)]
    chosen = [shown[number] for number in choose_evenly(len(shown), MOST_SHOWN)]
    cells: list[Picture] = []
    for _, group in groupby(chosen, key=lambda example: (id(example.table), id(example.clip))):
        try:
            for example, frames in read_frames([*group], learner):
                title = f"{Path(example.name).name}, {example.size[0]}x{example.size[1]}"
                cells.append(draw_cell(Cell(title, example.clip.caption, frames)))
        except MLXVideoError as error:
            survey.unreadable.append(str(error))
    return cells


def describe_survey(dataset: Dataset, survey: Survey) -> str:
    """What was found, for people."""
    by_table = {id(table): [e for e in survey.examples if e.table is table] for table in dataset.tables}
    buckets = {id(table): _fill(table, by_table[id(table)]) for table in dataset.tables}
    lines = [
        f"{dataset.source}: {_count(dataset.num_clips, 'clip')}, {_count(len(survey.examples), 'example')}"
    ]
    for table in dataset.tables:
        lines += ["", *_describe_table(table, by_table[id(table)], buckets[id(table)])]
    filled = [bucket for each in buckets.values() for bucket in each]
    shown = sum(len(bucket.items) for bucket in filled)
    batches = _count(sum(bucket.num_batches for bucket in filled), "batch", "batches")
    lines += ["", f"An epoch shows {_count(shown, 'example')} in {batches}."]
    lines += _list("Captions missing", [clip.caption_place for clip in dataset.missing_captions()])
    clips = [clip for table in dataset.tables for clip in table.clips]
    lines += _list("Captions empty", [clip.caption_place for clip in clips if clip.caption == ""])
    lines += _list("Clips too short", [*_describe_short(survey)])
    return "\n".join([*lines, *_list("Cannot be used", survey.unreadable)])


def _describe_short(survey: Survey) -> Iterator[str]:
    for table, clip, facts in survey.too_short:
        needed = min(table.frames.target_frames)
        yield f"{clip.path}: {facts.frames} frames, at least {needed} are needed"


def _kind_of(example: PlannedExample) -> _Kind:
    inputs = sorted({*example.own_frames, *example.given})
    return *example.size, example.window.length, ", ".join(inputs)


def _fill(table: Table, examples: Sequence[PlannedExample]) -> tuple[Bucket, ...]:
    kinds = [_kind_of(example) for example in examples]
    return fill_buckets(kinds, [table.num_repeats] * len(examples), dict.fromkeys(kinds, table.batch_size))


def _describe_table(
    table: Table, examples: Sequence[PlannedExample], buckets: Sequence[Bucket]
) -> Iterator[str]:
    repeats = f", each {table.num_repeats} times an epoch" if table.num_repeats > 1 else ""
    yield f"{table.name}: {_count(len(table.clips), 'clip')}, batches of {table.batch_size}{repeats}"
    counts = Counter(map(_kind_of, examples))
    rows = [
        (
            f"  {width}x{height}",
            _count(frames, "frame"),
            _count(count, "example"),
            _count(bucket.num_batches, "batch", "batches"),
            inputs,
        )
        for ((width, height, frames, inputs), count), bucket in zip(counts.items(), buckets, strict=True)
    ]
    yield from text_table(sorted(rows)) if rows else ["  no example"]


def _list(title: str, entries: Sequence[str]) -> list[str]:
    if not entries:
        return []
    more = [f"  and {len(entries) - MOST_LISTED} others"] if len(entries) > MOST_LISTED else []
    return ["", f"{title} ({len(entries)}):", *(f"  {entry}" for entry in entries[:MOST_LISTED]), *more]


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or f'{one}s'}"
