"""A training settled: what follows from the request and the model, before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import mlx.core as mx

from mlx_video.conditioning.sources import TASK_PROMPTS
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request.option import options_of
from mlx_video.request.train import TaskName, TrainRequest
from mlx_video.training.adapter import AdapterPlan, find_layers
from mlx_video.training.distillation import WalkDrawing
from mlx_video.training.example import Examples
from mlx_video.training.lesson import Drawing
from mlx_video.training.loss import TIMESTEPS, NoiseDrawing
from mlx_video.training.noise_levels import NoiseLevels
from mlx_video.training.optimizers import Schedule
from mlx_video.training.state import STATE_FILE
from mlx_video.variants import fun, vace
from mlx_video.variants.registry import find_variant
from mlx_video.weights.network import PLAIN, TransformerNetwork

RATE_TIMES_WIDTH = 0.4
"""Default rate of an adapter times the transformer's width: wider layers want smaller rates under Adam, which
gives the published recipes' 1e-4 to 3e-4 (arXiv 2203.03466)."""
CAREFUL = 0.1
"""What becomes of that rate for all weights, and for Lion."""
WARM_UP_SHARE = 20
TIMESTEP_SHIFT = 3.0

TRAINED_NETWORKS = tuple(network.build for network in (PLAIN, fun.NETWORK, vace.NETWORK))
"""Transformers of whole clips, as flow matching trains them."""
_SETTLED = ("steps", "learning_rate", "schedule", "warm_up_steps", "init_lora", "timestep_shift")
"""Options that stand in a training's identity as what follows from them, or count at its beginning alone."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """One training.

    Attributes:
        request: what the user asked.
        model, config: of the model.
        transformer: name of the role of the one that is trained.
        adapter: what is trained beside it; None where its own weights are.
        schedule: of the learning rate.
        drawing: how chance enters.
        streams: whether its blocks are read from the disk as they are needed.
        checkpoints: whether blocks are computed again for their gradients.
    """

    request: TrainRequest
    model: ModelFolder
    config: ModelConfig
    transformer: str
    adapter: AdapterPlan | None
    schedule: Schedule
    drawing: Drawing
    streams: bool = False
    checkpoints: bool = True

    def trains(self, name: str) -> bool:
        """Whether a parameter of the transformer is trained, where its own weights are."""
        targets = self.request.target_modules
        return not targets or any(fits_parameter(target, name) for target in targets)

    @property
    def student(self) -> WalkDrawing | None:
        """How a student of few steps walks; None where none is trained."""
        return self.drawing if isinstance(self.drawing, WalkDrawing) else None

    @property
    def network(self) -> TransformerNetwork:
        """What the transformer is."""
        return find_variant(self.config).network

    @property
    def state_path(self) -> Path:
        """File of the state."""
        return self.request.output_dir / STATE_FILE

    def identity(self, examples: Examples) -> dict[str, str]:
        """What decides the numbers of a training on examples, as texts to compare."""
        declared = options_of(TrainRequest).items()
        own = {
            option.flag: str(getattr(self.request, name))
            for name, option in declared
            if option.affects == "latents" and name not in _SETTLED
        }
        file = self.model.transformers[self.transformer]
        schedule = self.schedule
        course = "" if schedule.name == "constant" else f" over {schedule.steps} steps"
        own["lessons"] = self.drawing.describe()
        own["learning rate"] = f"{schedule.peak:g}, {schedule.name}{course}, warm-up {schedule.warm_up}"
        return own | {"dataset": examples.identity, file.name: fingerprint_weights(file)}


def fits_parameter(target: str, name: str) -> bool:
    """Whether a target names a parameter: by a beginning or an end of its name, or a regular expression."""
    layer = name.removesuffix(".weight").removesuffix(".bias")
    if name.startswith(f"{target}.") or any(f".{each}".endswith(f".{target}") for each in (name, layer)):
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error:
        return False


def plan_training(request: TrainRequest, model: ModelFolder, config: ModelConfig) -> TrainingPlan:
    """Settle a training.

    Args:
        request: what the user asked.
        model, config: of the model.

    Raises:
        RequestError: an option does not fit the model.
    """
    _refuse_unlike_models(config)
    transformer = _find_transformer(request, config)
    if request.network == "full" and config.quantization is not None:
        raise RequestError(
            "network",
            f"full: the model has weights of {config.quantization.bits} bits, which take no small changes. "
            "Train an adapter, or the model that it was quantized from.",
        )
    return TrainingPlan(
        request,
        model,
        config,
        transformer,
        _plan_adapter(request, config),
        _plan_schedule(request, config),
        _DRAWINGS[request.task](request, config),
    )


def _refuse_unlike_models(config: ModelConfig) -> None:
    """Refuse models whose forward is another one than flow matching of whole clips trains."""
    variant = find_variant(config)
    reads_tasks = TASK_PROMPTS in variant.units
    if reads_tasks or variant.network.build not in TRAINED_NETWORKS or variant.blocks is not None:
        raise RequestError(
            "folder",
            f"{variant.title} cannot be trained here. Text-to-video, image-to-video, TI2V, Fun and VACE "
            "models of Wan2.1 and Wan2.2 can.",
        )


def _find_transformer(request: TrainRequest, config: ModelConfig) -> str:
    if config.is_dual:
        if request.expert is None:
            raise RequestError(
                "expert", "is missing: the model has two experts. Train high_noise and low_noise one by one."
            )
        return request.expert
    if request.expert is not None:
        raise RequestError("expert", f"{request.expert}: the model has one transformer. Leave it out.")
    return "model"


def _plan_adapter(request: TrainRequest, config: ModelConfig) -> AdapterPlan | None:
    if request.network == "full":
        return None
    layers = find_layers(find_variant(config).network, config.transformer, request.target_modules)
    dtype = {"float32": mx.float32, "bfloat16": mx.bfloat16}[request.adapter_dtype]
    return AdapterPlan(request.network, request.rank, request.scale_alpha, layers, dtype)


def _plan_schedule(request: TrainRequest, config: ModelConfig) -> Schedule:
    peak = request.learning_rate
    if peak is None:
        is_careful = request.network == "full" or request.optimizer == "lion"
        peak = RATE_TIMES_WIDTH / config.transformer.dim * (CAREFUL if is_careful else 1)
    warm_up = request.warm_up_steps
    if warm_up is None:
        warm_up = request.steps // WARM_UP_SHARE
    return Schedule(request.schedule, peak, warm_up, request.steps)


def _plan_noise(request: TrainRequest, config: ModelConfig) -> Drawing:
    return NoiseDrawing(request.seed, _plan_levels(request, config), request.caption_dropout)


def _plan_walks(request: TrainRequest, config: ModelConfig) -> Drawing:
    if config.is_dual:
        raise RequestError(
            "task",
            "direct-distill: the model has two experts, which share the steps; one cannot learn them. Take "
            "a model of one transformer.",
        )
    return WalkDrawing(request.distill_steps, request.timestep_shift or config.sampling.shift)


_DRAWINGS: Mapping[TaskName, Callable[[TrainRequest, ModelConfig], Drawing]] = MappingProxyType(
    {"sft": _plan_noise, "direct-distill": _plan_walks}
)


def _plan_levels(request: TrainRequest, config: ModelConfig) -> NoiseLevels:
    boundary = config.sampling.boundary
    ranges: Mapping[str | None, tuple[float, float]] = {
        None: (0.0, 1.0),
        "high_noise": (boundary, 1.0),
        "low_noise": (0.0, boundary),
    }
    low, high = ranges[request.expert]
    low = low if request.min_timestep is None else request.min_timestep / TIMESTEPS
    high = high if request.max_timestep is None else request.max_timestep / TIMESTEPS
    if low >= high:
        raise RequestError(
            "min_timestep", f"{low * TIMESTEPS:g}: is not below the highest, {high * TIMESTEPS:g}. Lower it."
        )
    return NoiseLevels(
        request.timestep_sampling,
        request.timestep_shift or TIMESTEP_SHIFT,
        request.logit_mean,
        request.logit_std,
        low,
        high,
        request.weighting,
    )
