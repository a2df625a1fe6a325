"""Where results go, when they are written, and what is said in them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from mlx_video import __version__
from mlx_video.config import ModelConfig
from mlx_video.request.option import options_of
from mlx_video.request.train import TrainRequest
from mlx_video.sampling.recipes.settle import adopt_recipe
from mlx_video.sampling.recipes.student import adapt_student, describe_student
from mlx_video.training.plan import TrainingPlan
from mlx_video.training.result import AdapterNames, Metadata, write_adapter, write_model
from mlx_video.training.trainable import Values


def result_path(plan: TrainingPlan, step: int | None = None) -> Path:
    """Where a result goes: that of some step, or the final one."""
    request = plan.request
    expert = "" if plan.transformer == "model" else f"_{plan.transformer}"
    of_step = "" if step is None else f"-step{step:06}"
    ending = ".safetensors" if plan.adapter and request.export != "peft" else ""
    return request.output_dir / f"{request.output_name}{expert}{of_step}{ending}"


def write_result(plan: TrainingPlan, dataset: str, values: Values, step: int | None = None) -> Path:
    """Write what is trained so far; raises as `write_adapter` and `write_model`.

    Args:
        plan: of the training.
        dataset: says what it learns from, in a few words.
        values: trained.
        step: how many steps are taken; None for all.
    """
    path = result_path(plan, step)
    if plan.adapter is None:
        return write_model(path, plan.model, plan.transformer, values, _adopt_recipe(plan))
    names = AdapterNames(plan.adapter, plan.network)
    return write_adapter(path, names, values, plan.request.export, describe_result(plan, dataset, step))


def describe_result(plan: TrainingPlan, dataset: str, step: int | None) -> Metadata:
    """Texts for the header of an adapter's file."""
    request = plan.request
    # Those of this machine's memory, files and moment are nobody else's business.
    deciding = (name for name, option in options_of(TrainRequest).items() if option.affects == "latents")
    options = {name: str(getattr(request, name)) for name in deciding}
    return {
        "format": "pt",
        "modelspec.title": request.output_name,
        **_name_recipe(plan),
        "modelspec.architecture": f"{plan.config.variant}/{request.network}",
        "mlx_video.base_model": f"{plan.config.variant}, {plan.model.transformers[plan.transformer].name}",
        "mlx_video.dataset": dataset,
        "mlx_video.steps": str(request.steps if step is None else step),
        "mlx_video.training": json.dumps(options),
        "mlx_video.version": __version__,
    }


def _name_recipe(plan: TrainingPlan) -> Metadata:
    return {} if plan.student is None else describe_student(plan.student.steps, plan.student.shift)


def _adopt_recipe(plan: TrainingPlan) -> ModelConfig | None:
    """What config.json is to say of a student; None where it stays as it is."""
    if plan.student is None:
        return None
    config, model_type = plan.config, plan.config.transformer.model_type
    recipe = adapt_student(plan.student.steps, plan.student.shift, model_type)
    return replace(config, sampling=adopt_recipe(recipe, config.sampling, model_type))


def remove_older_results(plan: TrainingPlan) -> None:
    """Remove all but the newest results of steps."""
    name = result_path(plan, 0).name.replace("000000", "*")
    found = sorted(plan.request.output_dir.glob(name))
    for path in found[: len(found) - plan.request.keep_last]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
