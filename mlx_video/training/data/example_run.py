"""A planned example as a run of the model, whose own machinery turns the clip's inputs into conditioning."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.clips import encode_picture
from mlx_video.conditioning.control.units import CONTROL_IMAGES, START
from mlx_video.conditioning.units import ConditioningUnit, Fields, UnitInputs, fill_conditioning
from mlx_video.errors import DatasetError, MemoryBudgetError, RequestError
from mlx_video.events import Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.media.fit import fit_frame
from mlx_video.media.open_image import open_image
from mlx_video.media.resize import to_unit_range
from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.planning.budget import GB
from mlx_video.planning.choices import IMAGE_ENCODER, MOTION_CONTROLLER, VAE_ENCODER, MemoryChoices
from mlx_video.planning.stage_plans import plan_encoding
from mlx_video.request import INPUTS, GenerateRequest
from mlx_video.runs.input_checks import check_inputs, check_parts
from mlx_video.runs.inputs import ModelEncoders, unit_inputs
from mlx_video.runs.memory import find_host, find_task
from mlx_video.runs.run import Run
from mlx_video.runs.settings import ShownSize, plan_run
from mlx_video.training.data.bucket_sizes import Size
from mlx_video.training.data.clip_reader import open_clip, read_windows, with_last_repeated
from mlx_video.training.data.example_plan import Learner, PlannedExample
from mlx_video.training.data.finished_latents import is_latents, read_latents
from mlx_video.training.data.fit_pixels import fit_pixels
from mlx_video.training.data.frame_windows import Window
from mlx_video.training.data.input_names import FIRST_FRAME, LAST_FRAME, VIDEOS
from mlx_video.training.data.listed_files import PICTURE_SUFFIXES

CLIP = ""
"""Name of the clip itself among the frames of an example."""

ExampleFrames = Mapping[str, Sequence[np.ndarray]]
"""Option of a run, or :data:`CLIP` → frames of an example's size, uint8 [H, W, 3]."""


@dataclass(slots=True)
class Workshop:
    """What encodes examples: the model, with its encoders in memory as long as the session is open.

    Attributes:
        model: its files.
        learner: what it is.
        memory_limit: in GB of 10^9 bytes; None for what the machine has.
        session: keeps the encoders between examples.
    """

    model: ModelFolder
    learner: Learner
    memory_limit: float | None = None
    session: Session = field(default_factory=lambda: Session(keeps=True))
    _tiles: dict[Size, int | None] = field(default_factory=dict)

    def run_of(self, example: PlannedExample, frames: ExampleFrames, caption: str = "") -> Run:
        """The run that would be given what the example's conditioning is made of.

        Raises:
            DatasetError: the model does not take it; the message names the clip.
        """
        try:
            return self._run_of(example, frames, caption)
        except RequestError as error:
            raise DatasetError(f"{example.name}: {error}") from error

    def _run_of(self, example: PlannedExample, frames: ExampleFrames, caption: str) -> Run:
        request = _request_of(example, frames, caption, self.memory_limit)
        check_inputs(request, self.learner.variant)
        check_parts(request, self.model)
        given = {name: getattr(request, name) for name in INPUTS}
        images = {
            name: open_image(value).pixels
            for name, value in given.items()
            if INPUTS[name] == "image" and value is not None
        }
        videos = {
            name: open_video(value)
            for name, value in given.items()
            if INPUTS[name] in ("video", "mask") and value is not None
        }
        pictures = {
            name: tuple(open_image(each).pixels for each in value)
            for name, value in given.items()
            if INPUTS[name] == "pictures" and value
        }
        learner, (width, height) = self.learner, example.size
        shown = ShownSize(height, width, "image" if images else "input_video")
        plan = plan_run(request, learner.config, learner.variant, shown)
        run = Run(
            self.model, learner.config, learner.variant, request, plan, images, videos, pictures,
            session=self.session,
        )  # fmt: skip
        kept = frozenset((VAE_ENCODER, IMAGE_ENCODER, MOTION_CONTROLLER))
        choices = MemoryChoices(encode_tile=self._find_tile(run, example), kept=kept)
        return replace(run, plan=replace(plan, memory=choices))

    def _find_tile(self, run: Run, example: PlannedExample) -> int | None:
        """Side of the tiles in which the VAE encodes examples of a size; raises as :func:`encode_example`."""
        if example.size not in self._tiles:
            host = find_host(self.memory_limit)
            stage, tile = plan_encoding(find_task(run), host)
            if not stage.fits(host.budget):
                raise MemoryBudgetError(
                    f"{example.name}: encoding {example.size[0]}x{example.size[1]} pixels needs "
                    f"{stage.peak.needed / GB:.3g} GB, the budget is {host.budget.nbytes / GB:.3g} GB "
                    f"({host.budget.reason}). Allow more with --memory-limit, or take a smaller resolution."
                )
            self._tiles[example.size] = tile
        return self._tiles[example.size]


def _request_of(
    example: PlannedExample, frames: ExampleFrames, caption: str, memory_limit: float | None
) -> GenerateRequest:
    places = {FIRST_FRAME: 0, LAST_FRAME: -1}
    inputs: dict[str, object] = {name: frames[CLIP][places[name]] for name in example.own_frames}
    for name, value in example.given.items():
        inputs[name] = _source_video(example, name, frames[name]) if name in frames else value
    if one := example.table.one_frame:
        controls = example.given[CONTROL_IMAGES]
        assert isinstance(controls, tuple)
        inputs |= {"target_index": one.target_index, "control_index": one.control_indices}
        inputs["image"] = controls[0]
        if len(controls) > 1:
            inputs["end_image"] = controls[1]
    width, height = example.size
    return GenerateRequest(
        caption,
        width=width,
        height=height,
        num_frames=None if example.table.one_frame else example.window.length,
        seed=0,
        memory_limit=memory_limit,
        **inputs,  # type: ignore[arg-type]
    )


def _source_video(example: PlannedExample, name: str, frames: Sequence[np.ndarray]) -> SourceVideo:
    return SourceVideo(f"{name} of {example.name}", None, lambda: ((frame, 1.0) for frame in frames))


def needed_units(run: Run, inputs: UnitInputs) -> tuple[ConditioningUnit, ...]:
    """The units of a model that work for an example; those of texts work for captions, apart."""
    units = run.variant.units
    return tuple(unit for unit in units if "context" not in unit.owns and unit.is_needed(inputs))


def encode_example(
    shop: Workshop, example: PlannedExample, frames: ExampleFrames
) -> Work[tuple[mx.array, Fields]]:
    """Encode an example.

    Args:
        shop: encodes.
        example: as planned.
        frames: of its clip and its videos.

    Returns:
        Latents [C, T, H, W], float32: the VAE's mean, as the official training has them; and the fields of
        `Conditioning` that are not of texts, as a run with these inputs makes them.

    Raises:
        DatasetError, MediaError, MemoryBudgetError: it cannot be encoded.
    """
    run = shop.run_of(example, frames)
    inputs, encoders = unit_inputs(run), ModelEncoders(run)
    fields = yield from fill_conditioning(needed_units(run, inputs), inputs, encoders)
    if example.table.one_frame:
        latents = yield from _encode_one_frame(run, inputs, encoders, frames)
    elif is_latents(example.clip.path):
        latents = read_latents(example.clip.path)
    else:
        clip = replace(inputs, videos={"input_video": lambda: iter(frames[CLIP])})
        made = yield from START.make(clip, encoders)
        latents = cast(mx.array, made["start_latents"])
    return latents, fields


def _encode_one_frame(
    run: Run, inputs: UnitInputs, encoders: ModelEncoders, frames: ExampleFrames
) -> Work[mx.array]:
    """Latents of a picture and its controls, each at its time.

    Source: kohya-ss/musubi-tuner src/musubi_tuner/wan_cache_latents.py, encode_and_save_batch_one_frame.
    """
    geometry, fit = inputs.geometry, run.request.fit
    controls = (
        fit_frame(each, geometry.height, geometry.width, fit) for each in run.pictures[CONTROL_IMAGES]
    )
    by_time = dict(zip(run.request.control_index, controls, strict=True))
    assert run.request.target_index is not None
    by_time[run.request.target_index] = frames[CLIP][0]
    with encoders.open_vae() as encode:
        parts = []
        for _, picture in sorted(by_time.items()):
            parts.append((yield from encode_picture(encode, to_unit_range(picture))))
        latents = mx.concatenate(parts, axis=1)
        mx.eval(latents)
    return latents


def read_frames(
    examples: Sequence[PlannedExample], learner: Learner
) -> Iterator[tuple[PlannedExample, ExampleFrames]]:
    """Frames of examples of one clip, which is read once, and so are its videos.

    Yields:
        Each example, when its last frame is read, with frames of its size.

    Raises:
        MediaError, DatasetError: a file cannot be read, or ends too early.
    """
    first = examples[0]
    by_window = {example.window: example for example in examples}
    sources: dict[str, Path] = {} if is_latents(first.clip.path) else {CLIP: first.clip.path}
    sources |= {name: path for name, path in first.given.items() if name in VIDEOS and isinstance(path, Path)}
    if not sources:
        yield first, {}
        return
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(closing(_read_stretches(name, path, first, list(by_window), learner)))
            for name, path in sources.items()
        }
        for found in zip(*streams.values(), strict=True):
            frames = {name: stretch for name, (_, stretch) in zip(streams, found, strict=True)}
            yield by_window[found[0][0]], frames


def _read_stretches(
    name: str, path: Path, example: PlannedExample, windows: Sequence[Window], learner: Learner
) -> Generator[tuple[Window, list[np.ndarray]], None, None]:
    table, (width, height) = example.table, example.size
    is_picture = example.clip.is_picture if name == CLIP else path.suffix.lower() in PICTURE_SUFFIXES
    taken = table.frames.take(open_clip(path, is_picture=is_picture), learner.fps)
    frames = (fit_pixels(frame, width, height, table.fit) for frame in taken)
    repeats = name != CLIP and (table.pads_controls or is_picture)
    try:
        yield from read_windows(with_last_repeated(frames) if repeats else frames, windows)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error} Is it shorter than {example.clip.path}?") from error
