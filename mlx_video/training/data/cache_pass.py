"""The two passes before a training: captions through the text encoder, then clips through the VAE.

Each keeps what it has made in a file at once, so that a pass that was interrupted goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import mlx.core as mx

from mlx_video.conditioning.disk_cache import PromptCache, identify_encoder
from mlx_video.conditioning.text import count_tokens
from mlx_video.config import ModelConfig
from mlx_video.errors import DatasetError, MediaError
from mlx_video.events import CaptionsEncoded, ExamplesEncoded, Notice, Work, with_events
from mlx_video.files.whole_file import check_folder, remove_leftovers
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.loading.session import Session
from mlx_video.loading.vae_halves import check_vae_encoder
from mlx_video.request import GenerateRequest
from mlx_video.runs.encode_prompt import prepare_encoding
from mlx_video.runs.generate import within_limits
from mlx_video.runs.inputs import number_texts, open_tokenizer, run_text_encoder
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import timed
from mlx_video.training.data.cached_dataset import CachedDataset, CachedExample, load_caption
from mlx_video.training.data.clips import Clip, Dataset, Table
from mlx_video.training.data.content_digest import digest_value
from mlx_video.training.data.example_file import Shapes, read_shapes, write_example
from mlx_video.training.data.example_keys import CACHE_VERSION, describe_learner, key_of
from mlx_video.training.data.example_plan import (
    FACTS_FOLDER,
    PlannedExample,
    Survey,
    find_learner,
    survey_dataset,
)
from mlx_video.training.data.example_run import Workshop, encode_example, read_frames
from mlx_video.training.data.inspect_dataset import report_tables
from mlx_video.training.data.read_dataset import refuse_missing_captions

EXAMPLES_FOLDER, CAPTIONS_FOLDER = "examples", "captions"
CAPTIONS_AT_A_TIME = 32
"""Captions that pass the text encoder together, each block of which is read once for all of them."""
_MOST_NAMED = 5

Numbers = tuple[int, ...]


def cache_dataset(
    dataset: Dataset,
    model: ModelFolder,
    config: ModelConfig,
    *,
    seed: int = 0,
    extra_inputs: str | None = None,
    distill_steps: int | None = None,
    memory_limit: float | None = None,
) -> Work[CachedDataset]:
    """Encode what is not in the cache yet, and give all of it as examples.

    One clip is in memory at a time, as long as its longest example. The text encoder passes by block after
    block, and is gone before the VAE is loaded; at the end both are.

    Args:
        dataset: from `read_dataset`.
        model: its files.
        config: what its config.json says.
        seed: of the order in which examples are shown.
        extra_inputs: as in :class:`mlx_video.request.dataset.DatasetOptions`.
        distill_steps: that a student learns to do with; None for no student.
        memory_limit: in GB of 10^9 bytes; None for what the machine has.

    Yields:
        Notices, stages, and how far they are.

    Raises:
        DatasetError, MediaError: a clip cannot be read or used, or the cache not be written.
        CheckpointError: a part of the model is missing or damaged.
        MemoryBudgetError: an encoder needs more than there is.
    """
    refuse_missing_captions(dataset)
    learner = find_learner(config, extra_inputs, distill_steps)
    check_vae_encoder(model, config)
    yield from report_tables(dataset, learner)
    for table in dataset.tables:
        _prepare_folders(table)
    # Without the guidance's negative prompt: no run reads these texts.
    request = GenerateRequest("", negative_prompt="", memory_limit=memory_limit)
    run = prepare_encoding(request, model, config, Session())
    yield from run.plan.notices
    survey = yield from timed("dataset", survey_dataset(dataset, learner, keeps=True))
    yield from report_too_short(survey)
    if not survey.examples:
        raise DatasetError(f"{dataset.source}: no clip is long enough for an example. See --inspect-dataset.")
    captions = yield from _find_captions(run, dataset)
    yield from _encode_captions(run, captions)
    shop = Workshop(model, learner, memory_limit)
    kept = yield from _encode_examples(run, shop, survey)
    examples = [
        CachedExample(example.name, example.table, path, shapes, *captions.of(example), example.seed)
        for example, (path, shapes) in zip(survey.examples, kept, strict=True)
    ]
    return CachedDataset(examples, captions.load_empty(), seed)


def _prepare_folders(table: Table) -> None:
    for name in (EXAMPLES_FOLDER, CAPTIONS_FOLDER, FACTS_FOLDER):
        folder = table.cache_directory / name
        check_folder(folder)
        remove_leftovers(folder)


def report_too_short(survey: Survey) -> Iterator[Notice]:
    """Say which clips give no example."""
    if not survey.too_short:
        return
    named = ", ".join(
        f"{clip.path} ({facts.frames} frames)" for _, clip, facts in survey.too_short[:_MOST_NAMED]
    )
    more = "" if len(survey.too_short) <= _MOST_NAMED else " and others"
    yield Notice(f"{len(survey.too_short)} clips are too short for target_frames: {named}{more}.")


# Captions


@dataclass(frozen=True, slots=True)
class _Captions:
    """Captions of a dataset as token numbers, and where their features lie.

    Attributes:
        numbers: caption → its token numbers.
        stores: cache directory → its features.
        wanted: every store and what it is to hold; the first one holds the empty prompt.
    """

    numbers: dict[str, Numbers]
    stores: dict[Path, PromptCache]
    wanted: tuple[tuple[PromptCache, Numbers], ...]

    def of(self, example: PlannedExample) -> tuple[Numbers, PromptCache]:
        """Token numbers of an example's caption, and the store that has its features."""
        return self.numbers[example.clip.caption or ""], self.stores[example.table.cache_directory]

    def load_empty(self) -> mx.array:
        """Features of the empty prompt."""
        return load_caption(*self.wanted[0])


def _find_captions(run: Run, dataset: Dataset) -> Work[_Captions]:
    """Number all captions, and the empty prompt."""
    tokenizer, encoder = open_tokenizer(run), run.config.text_encoder
    identity = digest_value([CACHE_VERSION, identify_encoder(run.model.text_encoder, encoder)])
    texts = [*dict.fromkeys(["", *(clip.caption or "" for _, clip in _all_clips(dataset))])]
    numbers = dict(zip(texts, map(tuple, number_texts(run, tokenizer, texts)), strict=True))
    most = run.config.transformer.text_len
    full = [text for text, found in numbers.items() if len(found) == most]
    if cut := sum(count_tokens(tokenizer, text) > most for text in full):
        yield Notice(f"{cut} captions have more than {most} tokens; the model reads no more of them.")
    folders = dict.fromkeys(table.cache_directory for table in dataset.tables)
    stores = {
        folder: PromptCache(folder / CAPTIONS_FOLDER, identity, encoder.dim, None) for folder in folders
    }
    first = stores[dataset.tables[0].cache_directory]
    wanted = dict.fromkeys(
        [
            (first, numbers[""]),
            *(
                (stores[table.cache_directory], numbers[clip.caption or ""])
                for table, clip in _all_clips(dataset)
            ),
        ]
    )
    return _Captions(numbers, stores, tuple(wanted))


def _all_clips(dataset: Dataset) -> Iterator[tuple[Table, Clip]]:
    for table in dataset.tables:
        for clip in table.clips:
            yield table, clip


def _encode_captions(run: Run, captions: _Captions) -> Work[None]:
    missing = [(store, text) for store, text in captions.wanted if store.load(text) is None]
    for store, text in missing:
        if (path := store.path_of(text)).exists():
            yield Notice(f"{path} is damaged, and made again.")
    if missing:
        yield from within_limits(run, timed("captions", _encode_missing_captions(run, missing)))


def _encode_missing_captions(run: Run, missing: Sequence[tuple[PromptCache, Numbers]]) -> Work[None]:
    for begin in range(0, len(missing), CAPTIONS_AT_A_TIME):
        group = missing[begin : begin + CAPTIONS_AT_A_TIME]
        features = yield from with_events(
            run_text_encoder(run, [text for _, text in group]), lambda event: ()
        )
        for (store, text), encoded in zip(group, features, strict=True):
            store.store(text, encoded)
        yield CaptionsEncoded(begin + len(group), len(missing))


# Examples


def _encode_examples(run: Run, shop: Workshop, survey: Survey) -> Work[list[tuple[Path, Shapes]]]:
    """Encode the examples that are not in the cache; give the files of all, and what they hold."""
    facts, fps = describe_learner(shop.model, shop.learner), shop.learner.fps
    paths = [
        example.table.cache_directory
        / EXAMPLES_FOLDER
        / f"{key_of(example, facts, fps, survey.digests)}.safetensors"
        for example in survey.examples
    ]
    found: dict[Path, Shapes] = {}
    for path in dict.fromkeys(paths):
        try:
            if path.exists():
                found[path] = read_shapes(path)
        except MediaError:
            yield Notice(f"{path} is damaged, and made again.")
    # Copies of a clip have one file.
    missing = {
        path: example for example, path in zip(survey.examples, paths, strict=True) if path not in found
    }
    if missing:
        try:
            work = _encode_missing_examples(shop, missing)
            yield from within_limits(replace(run, memory_plan=None), timed("examples", work))
        finally:
            shop.session.close()
        found |= {path: read_shapes(path) for path in missing}
    return [(path, found[path]) for path in paths]


def _encode_missing_examples(shop: Workshop, missing: Mapping[Path, PlannedExample]) -> Work[None]:
    path_of = {id(example): path for path, example in missing.items()}
    done = 0
    for _, group in groupby(missing.values(), key=lambda example: (id(example.table), id(example.clip))):
        for example, frames in read_frames([*group], shop.learner):
            encoding = encode_example(shop, example, frames)
            latents, fields = yield from with_events(encoding, lambda event: ())
            write_example(path_of[id(example)], latents, fields, _describe(example))
            done += 1
            yield ExamplesEncoded(done, len(missing))


def _describe(example: PlannedExample) -> dict[str, str]:
    """What people may want to know of an example's file."""
    width, height = example.size
    return {"clip": example.name, "size": f"{width}x{height}", "frames": str(example.window.length)}
