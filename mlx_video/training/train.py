"""The training from its start, or from where it was left, to the trained file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import mlx.core as mx

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
from mlx_video.runs.state.identity import refuse_other_run
from mlx_video.training.adapter import Adapter
from mlx_video.training.example import Examples
from mlx_video.training.initial import put_initial
from mlx_video.training.learner import Learner
from mlx_video.training.log import TrainingLog, draw_losses
from mlx_video.training.network import open_network
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.results import remove_older_results, write_result
from mlx_video.training.samples import make_samples
from mlx_video.training.state import TrainingState, load_state, save_state
from mlx_video.training.step_gradients import AddUp, add_up

STAGE = "training"


def train(plan: TrainingPlan, examples: Examples, gather: AddUp = add_up) -> Work[Path]:
    """Train, and write the result.

    Whatever ends it early, Ctrl-C included, the steps that are done are kept in the state, from which
    `resume` goes on bit for bit.

    Args:
        plan: of the training.
        examples: to learn from.
        gather: computes the gradients of each step.

    Returns:
        The trained file, or folder.

    Raises:
        TrainingError: a loss is not finite, or a trained parameter gets no gradient.
        RequestError: the state is of another training.
        MediaError: the folder takes no files.
    """
    request = plan.request
    check_start(plan)
    adapter = None if plan.adapter is None else Adapter(plan.adapter, request.seed)
    identity = plan.identity(examples)
    state = find_start(plan, identity)
    if state is None:
        if adapter and request.init_lora is not None:
            put_initial(adapter, request.init_lora, plan)
        state = _begin(plan, adapter)
        yield Notice(_describe(plan, examples, state))
    else:
        yield Notice(f"Going on after step {state.step} of {request.steps}, from {plan.state_path}.")
    learner = Learner(plan, examples, state, identity, gather)
    # Whatever happens from here on, what is done is kept.
    yield StateSaved(plan.state_path, state.step, request.steps, _hint(plan))
    log = TrainingLog(request.output_dir, state.step, tensorboard=request.tensorboard)
    with closing(log):
        while learner.state.step < request.steps:
            yield from _sit(plan, adapter, learner, log)
            if request.sample_every and learner.state.step % request.sample_every == 0:
                result = write_result(plan, examples.describe(), learner.result, learner.state.step)
                yield from make_samples(plan, result, learner.state.step)
    save_state(plan.state_path, learner.state, learner.identity)
    result = write_result(plan, examples.describe(), learner.result)
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
            save_state(plan.state_path, learner.state, learner.identity)
        raise
    yield StageFinished(STAGE, time.perf_counter() - began, mx.get_peak_memory())


def _keep(plan: TrainingPlan, learner: Learner) -> Iterator[StateSaved]:
    state, request = learner.state, plan.request
    save_state(plan.state_path, state, learner.identity)
    if state.step < request.steps:
        write_result(plan, learner.examples.describe(), learner.result, state.step)
        remove_older_results(plan)
    yield StateSaved(plan.state_path, state.step, request.steps, _hint(plan))


def check_start(plan: TrainingPlan) -> None:
    """Refuse a folder that takes no files, or holds a state that the user does not ask for.

    Raises:
        RequestError: there is such a state.
        MediaError: the folder cannot be made or written to.
    """
    check_folder(plan.request.output_dir)
    if plan.state_path.exists() and not plan.request.resume:
        raise RequestError(
            "output_dir",
            f"{plan.request.output_dir}: holds the state of a training. Go on with --resume, or choose "
            "another folder.",
        )


def find_start(plan: TrainingPlan, identity: Mapping[str, str]) -> TrainingState | None:
    """The state that a training goes on from; None for its beginning.

    Raises:
        RequestError: it is of another training, or has more steps than are asked for.
        MediaError: it cannot be read.
    """
    path = plan.state_path
    if not path.exists():
        return None
    state, found = load_state(path)
    refuse_other_run(path, found, identity)
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
    request = plan.request
    epochs = request.steps * request.gradient_accumulation / examples.batches_per_epoch
    return (
        f"{numbers:,} numbers in {len(state.values)} parameters of {request.network} are trained, at rates "
        f"up to {plan.schedule.peak:.2g} and {plan.drawing.describe()}. "
        f"{examples.batches_per_epoch} batches are an epoch, {request.steps} steps {epochs:.1f} of them."
    )


def _hint(plan: TrainingPlan) -> ResumeHint:
    kept = f"The steps that are done are kept in {plan.state_path}"
    return ResumeHint(
        f"{kept}: the same command with --resume goes on from there.",
        f"{kept}: the same call with resume=True goes on from there.",
    )
