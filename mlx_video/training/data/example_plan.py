"""Which examples a dataset makes of its clips for a model, before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError, MLXVideoError, RequestError
from mlx_video.events import ClipsRead, Work
from mlx_video.geometry import size_multiple
from mlx_video.training.data.bucket_sizes import LimitedSizes, Size, SizeRule
from mlx_video.training.data.clip_reader import ClipFacts, measure_clip, open_clip, recall_facts
from mlx_video.training.data.clips import Clip, Dataset, Given, Table
from mlx_video.training.data.content_digest import digest_content, digest_value
from mlx_video.training.data.finished_latents import is_latents, measure_latents
from mlx_video.training.data.frame_windows import Window
from mlx_video.training.data.input_names import OPTION_OF, read_extra_inputs
from mlx_video.training.data.listed_runs import RUN_COLUMNS, read_seed
from mlx_video.training.data.model_inputs import (
    OwnFrames,
    choose_own_frames,
    find_inputs,
    named_files,
    refuse_lacking,
)
from mlx_video.variants.registry import find_variant
from mlx_video.variants.variant import Variant

FACTS_FOLDER = "clips"


@dataclass(frozen=True, slots=True)
class Learner:
    """The model that learns, as far as examples depend on it.

    Attributes:
        variant, config: of the model.
        chosen: inputs that the user named; None for no choice.
        distill_steps: that a student learns to do with; None for no student.
    """

    variant: Variant
    config: ModelConfig
    chosen: frozenset[str] | None = None
    distill_steps: int | None = None

    @property
    def fps(self) -> float:
        """Frames per second that it learns."""
        return float(self.config.sampling.fps)

    @property
    def multiple(self) -> Size:
        """What widths and heights are multiples of."""
        return size_multiple(self.config.vae.stride, self.config.transformer.patch_size)


def find_learner(
    config: ModelConfig, extra_inputs: str | None = None, distill_steps: int | None = None
) -> Learner:
    """The model that a config.json describes, and which inputs it is trained with.

    Raises:
        RequestError: --extra-inputs names something unknown.
    """
    if distill_steps is None and (names := set((extra_inputs or "").split(",")) & set(RUN_COLUMNS)):
        raise RequestError("extra_inputs", f"{min(names)}: is for --task direct-distill alone. Leave it out.")
    return Learner(find_variant(config), config, read_extra_inputs(extra_inputs), distill_steps)


@dataclass(frozen=True, slots=True)
class PlannedExample:
    """A stretch of a clip that becomes an example.

    Attributes:
        table, clip: it comes from.
        window: of the clip's frames.
        size: width and height in pixels.
        given: option of a run → what the dataset brings for it.
        own_frames: which of its frames the model is given.
        seed: of the run that made the clip, where a student learns from it.
    """

    table: Table
    clip: Clip
    window: Window
    size: Size
    given: Mapping[str, Given]
    own_frames: OwnFrames
    seed: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        if self.clip.is_picture:
            return str(self.clip.path)
        last = self.window.start + self.window.length - 1
        return f"{self.clip.path} frames {self.window.start}-{last}"


@dataclass(slots=True)
class Survey:
    """What was found in a dataset.

    Attributes:
        examples: that will be encoded.
        too_short: clips of which nothing becomes an example, with what is known of them.
        unreadable: what is wrong with clips that cannot be read or used.
        digests: of the clips' contents, where they were asked for.
    """

    examples: list[PlannedExample] = field(default_factory=list)
    too_short: list[tuple[Table, Clip, ClipFacts]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    digests: dict[Path, str] = field(default_factory=dict)


def survey_dataset(dataset: Dataset, learner: Learner, *, keeps: bool) -> Work[Survey]:
    """Read all clips as far as they are taken, and plan their examples.

    Args:
        dataset: of the user.
        learner: the model.
        keeps: whether contents are digested and facts kept in the cache, for encoding; the first clip that
            cannot be used is an error then, else it is listed.

    Raises:
        DatasetError, MediaError: a clip cannot be read or used.
    """
    survey, done = Survey(), 0
    for table in dataset.tables:
        for clip in table.clips:
            try:
                facts = _find_facts(table, clip, learner, survey if keeps else None)
                examples = list(plan_clip(table, clip, facts, learner))
            except MLXVideoError as error:
                if keeps:
                    raise
                survey.unreadable.append(str(error))
            else:
                survey.examples += examples
                if not examples:
                    survey.too_short.append((table, clip, facts))
            done += 1
            yield ClipsRead(done, dataset.num_clips)
    return survey


def _find_facts(table: Table, clip: Clip, learner: Learner, kept: Survey | None) -> ClipFacts:
    rule = table.frames
    if learner.distill_steps is not None:
        rule = replace(rule, max_frames=rule.max_frames + 1)  # tells whether there are more
    if not clip.path.exists():
        raise DatasetError(f"{clip.path}: not found; {clip.caption_place} names it. Correct it there.")
    if is_latents(clip.path):
        return measure_latents(clip.path, learner.config.vae)

    def measure() -> ClipFacts:
        return measure_clip(open_clip(clip.path, is_picture=clip.is_picture), rule, learner.fps)

    if kept is None:
        return measure()
    digest = kept.digests.setdefault(clip.path, digest_content(clip.path))
    asked = digest_value([digest, rule.source_fps, rule.follows_file, rule.limit, learner.fps])
    return recall_facts(table.cache_directory / FACTS_FOLDER / f"{asked}.json", measure)


def plan_clip(table: Table, clip: Clip, facts: ClipFacts, learner: Learner) -> Iterator[PlannedExample]:
    """The examples of a clip.

    Raises:
        DatasetError: the model makes no video of its size, or takes no such input; or a student would see
            another video than the one that its seed made.
    """
    given = find_inputs(clip, table, learner.variant, learner.chosen)
    for name, path in named_files(given):
        if not path.exists():
            raise DatasetError(
                f"{path}: not found; it is {name} of {clip.path}, by {clip.caption_place}. Correct it there."
            )
    size, windows = _cut(table, clip, facts, learner)
    seed = None if learner.distill_steps is None else read_seed(clip, learner.distill_steps)
    for window in windows:
        own: OwnFrames = ()
        if table.one_frame is None:
            own = _choose_own_frames(clip, given, learner, window)
        refuse_lacking(clip, table, learner.variant, {*given, *own})
        if seed is not None:
            _refuse_cut(clip, facts, window, size)
        yield PlannedExample(table, clip, window, size, given, own, seed)


def _cut(table: Table, clip: Clip, facts: ClipFacts, learner: Learner) -> tuple[Size, Sequence[Window]]:
    """Size and stretches of a clip's examples; latents stay as they are."""
    sizes: SizeRule = table.sizes
    if is_latents(clip.path):
        sizes = LimitedSizes((facts.width, facts.height))
    try:
        size = sizes.choose(facts.width, facts.height, learner.multiple)
    except DatasetError as error:
        raise DatasetError(f"{clip.path}: {error}") from error
    if clip.is_picture or is_latents(clip.path):
        return size, [Window(0, facts.frames)]
    return size, table.frames.windows(facts.frames)


def _choose_own_frames(clip: Clip, given: Mapping[str, Given], learner: Learner, window: Window) -> OwnFrames:
    """Which of a clip's own frames the model is given: of latents none, which show no frame."""
    if not is_latents(clip.path):
        return choose_own_frames(learner.variant, given, learner.chosen, window.length)
    own = choose_own_frames(learner.variant, given, learner.chosen or frozenset(), window.length)
    if own:
        columns = [column for column, option in OPTION_OF.items() if option in own]
        raise DatasetError(
            f"{clip.path}: is latents, which show no frame. Give the picture of the run in a list of clips, "
            f"in the column {columns[0]}."
        )
    return own


def _refuse_cut(clip: Clip, facts: ClipFacts, window: Window, size: Size) -> None:
    """Refuse an example that is not the whole of its clip, for which a seed's noise would be another."""
    whole, taken = (facts.width, facts.height, facts.frames), (*size, window.length)
    if whole != taken:
        raise DatasetError(
            f"{clip.path}: would be cut to {size[0]}x{size[1]} and {window.length} frames, but its seed made "
            "the whole. Give --num-frames, --max-pixels or --width and --height as it was made with."
        )
