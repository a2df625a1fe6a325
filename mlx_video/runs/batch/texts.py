"""All texts of a list, encoded before its first video: each block of the encoder is read once for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_video.conditioning.disk_cache import PromptCache, describe_encoder
from mlx_video.config import ModelConfig
from mlx_video.events import Work
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.models.dispatch import use_limits
from mlx_video.planning.choices import TEXT_ENCODER
from mlx_video.planning.memory_task import MemoryTask
from mlx_video.planning.stage_plans import plan_text
from mlx_video.runs.generate import within_limits
from mlx_video.runs.inputs import (
    Texts,
    caches_of,
    keep_texts,
    number_texts,
    open_tokenizer,
    recall,
    run_text_encoder,
    unit_inputs,
)
from mlx_video.runs.memory import find_task
from mlx_video.runs.networks import network_key
from mlx_video.runs.run import Run
from mlx_video.runs.stages.stage import timed

Numbered = tuple[int, ...]
_UNBOUNDED = 1 << 62


@contextmanager
def open_text_store(model: ModelFolder, config: ModelConfig) -> Iterator[PromptCache]:
    """Where the encoded texts of a list wait for their videos; gone when the context is left."""
    with TemporaryDirectory(prefix="mlx-video-texts-") as folder:
        encoder = describe_encoder(model.text_encoder, config.text_encoder)
        yield PromptCache(Path(folder), encoder, config.text_encoder.dim, _UNBOUNDED)


def texts_of(run: Run) -> list[Numbered]:
    """The texts that a run reads, as token numbers; none where its latents are there already."""
    if run.finished_latents is not None:
        return []
    return [tuple(text) for text in number_texts(run, open_tokenizer(run), unit_inputs(run).texts)]


def encode_all(run: Run, texts: Sequence[Numbered]) -> Work[None]:
    """Encode the texts of a list that no cache has, as many at once as fit in memory.

    Args:
        run: a prepared one of the list, whose model, caches and memory plan count.
        texts: of all runs; equal ones are encoded once.
    """
    missing = [text for text in dict.fromkeys(texts) if recall(text, caches_of(run)) is None]
    if missing:
        yield from within_limits(run, timed("text", _encode_in_groups(_without_encoder(run), missing)))


def _encode_in_groups(run: Run, texts: Sequence[Numbered]) -> Work[None]:
    task = find_task(run)
    while texts:
        count = _count_fitting(run, task, texts)
        group, texts = texts[:count], texts[count:]
        features = yield from run_text_encoder(run, group)
        yield from keep_texts(group, features, caches_of(run))


def _count_fitting(run: Run, task: MemoryTask, texts: Texts) -> int:
    """How many texts fit in memory at once, by halves; one always does, since a run was planned."""
    assert run.memory_plan is not None  # it is prepared
    host, count = run.memory_plan.host, len(texts)
    with use_limits(run.limits):
        while count > 1:
            lengths = tuple(len(text) for text in texts[:count])
            if plan_text(replace(task, text_lengths=lengths), host).fits(host.budget):
                break
            count //= 2
    return count


def _without_encoder(run: Run) -> Run:
    """A run that leaves no text encoder in memory: the list needs it no more. One that is there is used."""
    if run.session.holds(network_key(run, TEXT_ENCODER)):
        return run
    memory = replace(run.plan.memory, kept=run.plan.memory.kept - {TEXT_ENCODER})
    return replace(run, plan=replace(run.plan, memory=memory))
