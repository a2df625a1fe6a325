"""Runs that measure the ratios of MagCache: every block in every step, nothing decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mlx_video.config import ModelConfig
from mlx_video.errors import MediaError, RequestError
from mlx_video.events import Event, FileWritten, Notice
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request import GenerateRequest
from mlx_video.request.calibrate import CalibrateRequest
from mlx_video.runs.generate import fit_run, settle, within_limits
from mlx_video.runs.inputs import unit_inputs, with_tokenizer
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.measured_file import read_measured, write_measured
from mlx_video.runs.stages.denoise import DENOISE
from mlx_video.runs.stages.encode import AUDIO, IMAGE, TEXT
from mlx_video.runs.stages.stage import run_stages
from mlx_video.runs.work import describe_work
from mlx_video.sampling.step_caches.measured import Measurement, Probes, average
from mlx_video.sampling.step_caches.step_cache import FEWEST_STEPS, CacheFacts

_STAGES = (TEXT, AUDIO, IMAGE, DENOISE)


def calibrate(request: CalibrateRequest, model: ModelFolder, config: ModelConfig) -> Iterator[Event]:
    """Measure a model's ratios and write them beside it.

    Measurements of other sizes and steps stay in the file.

    Raises:
        RequestError: the request does not fit the model, or has no step to spare for a cache.
        MediaError: the prompts cannot be read, or the file cannot be written.
        ConfigError: the file that is there is damaged.
    """
    prompts = read_prompts(request.prompts)
    earlier = read_measured(model.path)
    measured: list[Probes] = []
    for number, prompt in enumerate(prompts):
        yield Notice(f"Prompt {number + 1} of {len(prompts)}: {prompt}")
        probes = Probes()
        run = _prepare(request.request_of(prompt, number), model, config, probes)
        if not number:
            yield from run.plan.notices
        yield describe_work(run, _STAGES, runs_after=len(prompts) - number - 1)
        begin = {"inputs": unit_inputs(run), "conditioning": {}, "colours": None}
        yield from within_limits(run, run_stages(run, _STAGES, "latents", begin))
        measured.append(probes)
    found = _summarize(run, measured)
    others = [one for one in earlier if one.key != found.key]
    yield FileWritten(write_measured(model.path, [*others, found]))


def read_prompts(path: Path) -> list[str]:
    """Lines of a text file that are not empty.

    Raises:
        MediaError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: cannot be read as text ({error}). Give a file with prompts.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise MediaError(f"{path}: has no prompt. Write one on each line.")
    return prompts


def _prepare(request: GenerateRequest, model: ModelFolder, config: ModelConfig, probes: Probes) -> Run:
    """A run whose step cache only measures."""
    run = settle(request, model, config)
    recipe = run.plan.recipe
    assert recipe is not None  # only a run that decodes has none
    if recipe.schedule.steps < FEWEST_STEPS:
        raise RequestError(
            "steps",
            f"{recipe.schedule.steps}: step caches are for {FEWEST_STEPS} or more. Measure with as many as "
            "your videos take.",
        )
    facts = CacheFacts("", recipe.schedule, recipe.guidance, recipe.expert_split)
    recipe = replace(recipe, step_cache=probes.plan(facts))
    return fit_run(with_tokenizer(replace(run, plan=replace(run.plan, recipe=recipe))))


def _summarize(run: Run, measured: list[Probes]) -> Measurement:
    plan = run.plan
    return Measurement(
        pixels=plan.geometry.width * plan.geometry.height,
        has_image=bool(run.images),
        steps=plan.steps,
        shift=plan.shift,
        prompts=len(measured),
        branches=average(measured),
    )
