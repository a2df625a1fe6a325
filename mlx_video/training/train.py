"""The training from its start, or from where it was left, to the trained file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_video import __version__
from mlx_video.errors import RequestError
from mlx_video.events import (
    Event,
    FileWritten,
    Notice,
    ResumeHint,
    StageFinished,
    StageStarted,
    StateSaved,
    TrainingStepFinished,
    Work,
)
from mlx_video.files.whole_file import check_folder
from mlx_video.request.option import options_of
from mlx_video.request.train import TrainRequest
from mlx_video.runs.state.identity import refuse_other_run
from mlx_video.training.adapter import Adapter
from mlx_video.training.example import Examples
from mlx_video.training.initial import put_initial
from mlx_video.training.learner import Learner
from mlx_video.training.log import TrainingLog, draw_losses
from mlx_video.training.network import open_network
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.result import AdapterNames, Metadata, write_adapter, write_model
from mlx_video.training.samples import make_samples
from mlx_video.training.state import TrainingState, load_state, save_state
from mlx_video.training.trainable import Values

STAGE = "training"


def train(plan: TrainingPlan, examples: Examples) -> Work[Path]:
    """Train, and write the result.

    Whatever ends it early, Ctrl-C included, the steps that are done are kept in the state, from which
    `resume` goes on bit for bit.

    Args:
        plan: of the training.
        examples: to learn from.

    Returns:
        The trained file, or folder.

    Raises:
        TrainingError: a loss is not finite, or a trained parameter gets no gradient.
        RequestError: the state is of another training.
        MediaError: the folder takes no files.
    """
    request = plan.request
    check_folder(request.output_dir)
    adapter = None if plan.adapter is None else Adapter(plan.adapter, request.seed)
    state = find_start(plan)
    if state is None:
        if adapter and request.init_lora is not None:
            put_initial(adapter, request.init_lora, plan)
        state = _begin(plan, adapter)
        yield Notice(_describe(plan, examples, state))
    else:
        yield Notice(f"Going on after step {state.step} of {request.steps}, from {plan.state_path}.")
    learner = Learner(plan, examples, state)
    # Whatever happens from here on, what is done is kept.
    yield StateSaved(plan.state_path, state.step, request.steps, _hint(plan))
    log = TrainingLog(request.output_dir, state.step, tensorboard=request.tensorboard)
    with closing(log):
        while learner.state.step < request.steps:
            yield from _sit(plan, adapter, learner, log)
            if request.sample_every and learner.state.step % request.sample_every == 0:
                result = write_result(plan, learner.result, learner.state.step)
                yield from make_samples(plan, result, learner.state.step)
    save_state(plan.state_path, learner.state, plan.identity())
    result = write_result(plan, learner.result)
    if picture := draw_losses(request.output_dir):
        yield Notice(f"The losses are drawn in {picture}.")
    yield FileWritten(result)
    return result


def _sit(plan: TrainingPlan, adapter: Adapter | None, learner: Learner, log: TrainingLog) -> Iterator[Event]:
    """Take steps with the network in memory, up to the end or to the next samples."""
    request = plan.request
    yield StageStarted(STAGE)
    began = time.perf_counter()
    mx.reset_peak_memory()
    try:
        with open_network(plan, adapter) as network:
            network.trainable.put(learner.state.values)
            while learner.state.step < request.steps:
                record = learner.take_step(network)
                log.add(record)
                yield TrainingStepFinished(
                    record.step - 1,
                    request.steps,
                    record.loss,
                    record.learning_rate,
                    record.seconds,
                    mx.get_peak_memory(),
                )
                if request.save_every and record.step % request.save_every == 0:
                    yield from _keep(plan, learner)
                if request.sample_every and record.step % request.sample_every == 0:
                    break
    except BaseException:
        if learner.state.step:
            save_state(plan.state_path, learner.state, plan.identity())
        raise
    yield StageFinished(STAGE, time.perf_counter() - began, mx.get_peak_memory())


def _keep(plan: TrainingPlan, learner: Learner) -> Iterator[StateSaved]:
    state, request = learner.state, plan.request
    save_state(plan.state_path, state, plan.identity())
    if state.step < request.steps:
        write_result(plan, learner.result, state.step)
        remove_older_results(plan)
    yield StateSaved(plan.state_path, state.step, request.steps, _hint(plan))


def find_start(plan: TrainingPlan) -> TrainingState | None:
    """The state that a training goes on from; None for its beginning.

    Raises:
        RequestError: there is a state that the user does not ask for, or one of another training.
        MediaError: it cannot be read.
    """
    path = plan.state_path
    if not path.exists():
        return None
    if not plan.request.resume:
        raise RequestError(
            "output_dir",
            f"{plan.request.output_dir}: holds the state of a training. Go on with --resume, or choose another "
            "folder.",
        )
    state, identity = load_state(path)
    refuse_other_run(path, identity, plan.identity())
    if state.step > plan.request.steps:
        raise RequestError("steps", f"{plan.request.steps}: {state.step} are taken already. Ask for more.")
    return state


def _begin(plan: TrainingPlan, adapter: Adapter | None) -> TrainingState:
    if adapter:
        values = adapter.trainable.values()
    else:
        with open_network(replace(plan, streams=False), None) as network:
            values = network.trainable.values()
    average = values if plan.request.ema else {}
    return TrainingState(0, values, {}, average)


def _describe(plan: TrainingPlan, examples: Examples, state: TrainingState) -> str:
    numbers = sum(value.size for value in state.values.values())
    request, level = plan.request, plan.drawing.levels
    epochs = request.steps * request.gradient_accumulation / examples.batches_per_epoch
    return (
        f"{numbers:,} numbers in {len(state.values)} parameters of {plan.request.network} are trained, at rates up "
        f"to {plan.schedule.peak:.2g} and timesteps {level.lowest * 1000:g} to {level.highest * 1000:g}. "
        f"{examples.batches_per_epoch} batches are an epoch, {request.steps} steps {epochs:.1f} of them."
    )


def _hint(plan: TrainingPlan) -> ResumeHint:
    kept = f"The steps that are done are kept in {plan.state_path}"
    return ResumeHint(
        f"{kept}: the same command with --resume goes on from there.",
        f"{kept}: the same call with resume=True goes on from there.",
    )


def result_path(plan: TrainingPlan, step: int | None = None) -> Path:
    """Where a result goes: that of some step, or the final one."""
    request = plan.request
    expert = "" if plan.transformer == "model" else f"_{plan.transformer}"
    of_step = "" if step is None else f"-step{step:06}"
    ending = ".safetensors" if plan.adapter and request.export != "peft" else ""
    return request.output_dir / f"{request.output_name}{expert}{of_step}{ending}"


def write_result(plan: TrainingPlan, values: Values, step: int | None = None) -> Path:
    """Write what is trained so far; raises as `write_adapter` and `write_model`."""
    path = result_path(plan, step)
    if plan.adapter is None:
        return write_model(path, plan.model, plan.transformer, values)
    names = AdapterNames(plan.adapter, plan.network, plan.transformer)
    return write_adapter(path, names, values, plan.request.export, describe_result(plan, step))


def describe_result(plan: TrainingPlan, step: int | None) -> Metadata:
    """Texts for the header of a result."""
    request, adapter = plan.request, plan.adapter
    assert adapter is not None
    options = {name: str(getattr(request, name)) for name in options_of(TrainRequest)}
    return {
        "format": "pt",
        "modelspec.title": request.output_name,
        "modelspec.architecture": f"{plan.config.variant}/{request.network}",
        "mlx_video.base_model": f"{plan.config.variant}, {plan.model.transformers[plan.transformer].name}",
        "mlx_video.dataset": plan.dataset,
        "mlx_video.steps": str(request.steps if step is None else step),
        "mlx_video.training": json.dumps(options),
        "mlx_video.version": __version__,
    }


def remove_older_results(plan: TrainingPlan) -> None:
    """Remove all but the newest results of steps."""
    name = result_path(plan, 0).name.replace("000000", "*")
    found = sorted(plan.request.output_dir.glob(name))
    for path in found[: len(found) - plan.request.keep_last] if plan.request.keep_last else found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
