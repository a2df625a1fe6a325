"""Going on from a run's state: is it of this run, which step comes next, and what to tell the user."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx

from mlx_video.conditioning.latent_frames import VIDEO_ALONE, LatentFrames
from mlx_video.errors import MediaError
from mlx_video.events import FileWritten, Notice, ResumeHint, StateSaved, StepFinished
from mlx_video.files.unusable_paths import real_path
from mlx_video.latents.block_file import block_path
from mlx_video.latents.run_state import (
    RunState,
    current_versions,
    find_state_path,
    load_state,
    save_state,
)
from mlx_video.layouts.components import TINY_VAE, VAE
from mlx_video.request import RANDOM_SEED, GenerateRequest, draw_seed, options_of
from mlx_video.request.option import Option
from mlx_video.runs.run import Run
from mlx_video.runs.state.identity import identify_run, refuse_other_run
from mlx_video.sampling.noise import open_noise
from mlx_video.sampling.sampler_state import SamplerState
from mlx_video.sampling.solvers.table import build_solver

NOISES = ("noise", "start_noise")
"""Names of the sources of noise in a state; the second is there where each block has noise of its own."""


def find_start(run: Run) -> Run:
    """Settle where a run begins: at the state beside its video if the user wants to resume, or at the start.

    Args:
        run: with a seed, or, where it resumes, perhaps without.

    Returns:
        The run with a seed, with the state that it goes on from, and notices on both.

    Raises:
        RequestError: the state is of another run.
        MediaError: the state cannot be read.
    """
    path = find_state_path(run.request)
    if path is None:
        return run
    if not run.request.resume:
        return _with_notices(_identified(run), *_warn_of_replacing(path))
    if not path.exists():
        run = replace(run, request=_with_seed(run.request, draw_seed()))
        return _with_notices(_identified(run), f"No state in {path}: beginning at the first step.")
    state = load_state(path)
    run = _identified(replace(run, request=_with_seed(run.request, int(state.settings["seed"]))))
    refuse_other_run(path, state.identity, run.identity)
    _check_fits(path, state, run)
    texts = [f"Going on after {state.progress}, from {path}."]
    if state.versions != current_versions():
        texts.append(
            f"It was made with {state.versions}, this is {current_versions()}: the last digits of the result "
            "may be others than in one go."
        )
    return _with_notices(replace(run, state=state), *texts)


def _check_fits(path: Path, state: RunState, run: Run) -> None:
    """Refuse a state that says it is of this run, but cannot be: something else has changed it."""
    request, plan = run.request, run.plan
    shape = plan.geometry.latent_shape if state.is_finished else plan.step_shape
    assert plan.recipe is not None  # only a run that decodes has none
    try:
        if state.steps != plan.steps or state.latents.shape != shape:
            raise ValueError(f"{state.steps} steps of {state.latents.shape}, not {plan.steps} of {shape}")
        if state.is_finished and plan.leading_frames:
            return  # what sampling remembered was of other frames too
        solver = build_solver(plan.recipe.solver, plan.recipe.schedule, partial(mx.zeros, shape))
        memory = SamplerState(state.sampler)
        memory.add("solver", solver)
        for name in NOISES:
            memory.add(name, open_noise(request.noise, request.seed))
    except ValueError as error:
        raise MediaError(f"{path}: is damaged ({error}). Begin anew without --resume.") from error


def _with_seed(request: GenerateRequest, seed: int) -> GenerateRequest:
    return replace(request, seed=seed) if request.seed == RANDOM_SEED else request


def _with_notices(run: Run, *texts: str) -> Run:
    return replace(run, plan=replace(run.plan, notices=(*run.plan.notices, *map(Notice, texts))))


def _identified(run: Run) -> Run:
    return replace(run, identity=identify_run(run))


def _warn_of_replacing(path: Path) -> Iterator[str]:
    with suppress(MediaError):  # whatever else has this name is no loss
        if path.exists():
            yield (
                f"{path} holds {load_state(path).progress} of an earlier run, which --resume goes on with. "
                "It is replaced when this run saves its own."
            )


def keep_step(
    run: Run, event: StepFinished, memory: SamplerState, frames: LatentFrames = VIDEO_ALONE
) -> Iterator[Notice | StateSaved]:
    """Write the run's state after a step, if one is due. A full disk does not end the run.

    Args:
        run: what is being made.
        event: of the step just taken.
        memory: of the sampler, after this step.
        frames: latent frames that are sampled; behind the last step only those of the result are kept.
    """
    path, done = find_state_path(run.request), event.index + 1
    every = run.request.checkpoint_every
    is_due = done == event.total or (every and done % every == 0)
    if path is None or not is_due:
        return
    latents, sampler = event.latents, memory.arrays()
    if done == event.total and frames != VIDEO_ALONE:
        latents, sampler = frames.select_result(latents), {}
    state = RunState(latents, done, event.total, run.settings(), run.identity, sampler)
    yield from save_and_tell(run, path, state)


def save_and_tell(run: Run, path: Path, state: RunState) -> Iterator[Notice | StateSaved]:
    """Write a run's state, and say how to go on from it; one that cannot be written ends no run."""
    try:
        save_state(path, state)
    except MediaError as error:
        yield Notice(f"The state after {state.progress} is not kept. {error}")
    else:
        yield StateSaved(path, state.next_step, state.steps, describe_resume_hint(run, state, path))


def forget_state(run: Run) -> Iterator[FileWritten]:
    """Remove the state of a run whose video is finished, or report it where the user wants to keep it.

    A file that `--decode-only` reads stays, unless it is the state beside this very video.
    """
    path, source = find_state_path(run.request), run.request.decode_only
    if run.plan.blocks and run.request.output_path:
        block_path(run.request.output_path).unlink(missing_ok=True)
    if path is None or not path.exists() or (source and real_path(source) != real_path(path)):
        return
    if run.request.keep_state:
        yield FileWritten(path)
    else:
        path.unlink()


def report_start(run: Run) -> Iterator[StateSaved]:
    """The state that a run goes on from, which is kept until the next one."""
    path = find_state_path(run.request)
    if run.request.resume and path and run.state:
        yield StateSaved(
            path, run.state.next_step, run.state.steps, describe_resume_hint(run, run.state, path)
        )


def describe_resume_hint(run: Run, state: RunState, path: Path) -> ResumeHint:
    """What is kept of an unfinished run, and how to go on with it.

    The latents of a clip that is joined to others are not decoded by themselves.
    """
    if state.is_finished and not (run.earlier or run.kept_frames):
        kept = f"The finished latents are kept in {path}. Make the video from them with: "
        return ResumeHint(kept + _decode_command(run, path), kept + _decode_call(run, path))
    return go_on_hint(f"{state.progress} are kept in {path}")


def go_on_hint(kept: str) -> ResumeHint:
    """How to go on from what is kept, which a sentence begins with."""
    return ResumeHint(
        f"{kept}: the same command with --resume goes on from there.",
        f"{kept}: the same call with resume=True goes on from there.",
    )


def _decode_command(run: Run, path: Path) -> str:
    command: list[object] = ["python", "-m", "mlx_video.generate_wan", "--model-dir", run.model.path]
    command += ["--decode-only", path]
    for row in (VAE, TINY_VAE):
        part = run.model.parts.get(row.name)
        if part and not part.is_relative_to(run.model.path):
            command += [row.flag, part]
    for declared in _decoding_options():
        command += declared.words(getattr(run.request, declared.name))
    return shlex.join(map(str, command))


def _decode_call(run: Run, path: Path) -> str:
    values = ((declared, getattr(run.request, declared.name)) for declared in _decoding_options())
    given = [f", {each.name}={_spell(value)}" for each, value in values if value != each.default]
    return f"pipe.decode({_spell(path)}{''.join(given)})"


def _spell(value: object) -> str:
    """A value as Python reads it."""
    return repr(str(value) if isinstance(value, Path) else value)


def _decoding_options() -> Iterator[Option]:
    return (declared for declared in options_of(GenerateRequest).values() if declared.decodes)
