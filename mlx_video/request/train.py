"""What a training asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from mlx_video.errors import RequestError
from mlx_video.request.choices import MAX_SEED, StreamMode
from mlx_video.request.kinds import Kind, Place, ReadPath, WrittenPath
from mlx_video.request.option import (
    Bounds,
    at_least,
    between,
    check_options,
    option,
    options_of,
    positive,
    settle_paths,
)
from mlx_video.request.parallel import PARALLEL_GROUP, lost_after_option

TaskName = Literal["sft", "direct-distill"]
NetworkKind = Literal["lora", "loha", "lokr", "full"]
ExpertChoice = Literal["high_noise", "low_noise"]
NumberType = Literal["float32", "bfloat16"]
TimestepSampling = Literal["uniform", "sigmoid", "shift", "logit_normal"]
LossWeighting = Literal["none", "bell"]
OptimizerName = Literal["adamw", "adafactor", "lion"]
ScheduleName = Literal["constant", "cosine", "linear"]
ExportName = Literal["comfyui", "peft", "kohya", "diffusers"]

_TASK = "task"
_NETWORK = "what is trained"
_DESCENT = "learning"
_NOISE = "noise"
_MEMORY = "memory"
_FILES = "results and logs"

_WORDS = Kind(
    lambda value: isinstance(value, tuple) and all(isinstance(word, str) for word in value),
    "texts, several with commas between them",
    "Sequence[str]",
    lambda text: tuple(word for word in text.split(",") if word),
    python_words="a list or tuple of texts",
    read=lambda name, value: tuple(value) if isinstance(value, list) else value,
)
_Words = Annotated[tuple[str, ...], _WORDS]

MOST_TRAINING_STEPS = 10**7
MOST_WALK_STEPS = 1000
_OF_TASKS: Mapping[TaskName, tuple[str, ...]] = MappingProxyType(
    {
        "sft": (
            "caption_dropout",
            "timestep_sampling",
            "logit_mean",
            "logit_std",
            "min_timestep",
            "max_timestep",
            "weighting",
        ),
        "direct-distill": ("distill_steps",),
    }
)
"""Task → options that decide nothing of the others."""
_EXPERTS = "the expert's own range, else 0 to 1000"


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """One training; None stands for a default that follows from the model."""

    task: TaskName = option(
        "sft",
        help="`sft` learns from clips by flow matching; `direct-distill` learns to end in few steps without "
        "guidance where full runs of the seeds in the dataset ended",
        group=_TASK,
    )
    distill_steps: int = option(
        4,
        help="steps that `direct-distill` learns to do with",
        group=_TASK,
        check=between(1, MOST_WALK_STEPS),
    )
    network: NetworkKind = option(
        "lora",
        help="`lora`, `loha` or `lokr`, adapters beside the frozen weights; or `full`, the transformer's own "
        "weights",
        group=_NETWORK,
    )
    rank: int = option(32, help="of an adapter's factors", group=_NETWORK, check=between(1, 4096))
    alpha: float | None = option(
        None,
        help="what an adapter changes is scaled by alpha over rank",
        group=_NETWORK,
        default_text="the rank",
        check=positive(),
    )
    target_modules: _Words = option(
        (),
        help="what is trained: ends of the layers' names, such as `self_attn.q,ffn.0`, or regular "
        "expressions of whole names; of `full` ends or beginnings of parameters' names",
        group=_NETWORK,
        default_text="q, k, v, o, ffn.0 and ffn.2 of every block; with `full` everything",
    )
    adapter_dtype: NumberType = option(
        "float32", help="`float32` or `bfloat16`, of an adapter's numbers", group=_NETWORK
    )
    init_lora: Place | None = option(
        None, help="adapter of the same kind and rank to begin with", group=_NETWORK, metavar="FILE"
    )
    expert: ExpertChoice | None = option(
        None,
        help="`high_noise` or `low_noise`: which of two experts is trained; needed for models with two",
        group=_NETWORK,
    )
    steps: int = option(
        1000, help="updates of the weights", group=_DESCENT, check=between(1, MOST_TRAINING_STEPS)
    )
    learning_rate: float | None = option(
        None,
        help="rate behind the warm-up",
        group=_DESCENT,
        default_text="0.4 over the transformer's width: 2.6e-4 for 1.3B, 7.8e-5 for 14B; a tenth of it for "
        "`full` and `lion`",
        check=positive(),
    )
    schedule: ScheduleName = option(
        "cosine",
        help="course of the rate behind the warm-up: `constant`, `cosine` or `linear` to 0",
        group=_DESCENT,
    )
    warm_up_steps: int | None = option(
        None,
        help="steps over which the rate rises",
        group=_DESCENT,
        default_text="a twentieth",
        check=at_least(0),
    )
    optimizer: OptimizerName = option("adamw", help="MLX's", group=_DESCENT)
    weight_decay: float = option(
        0.01, help="of AdamW, Adafactor and Lion", group=_DESCENT, check=between(0, 1)
    )
    gradient_accumulation: int = option(
        1, help="batches for each update", group=_DESCENT, check=between(1, 10**6)
    )
    max_gradient_norm: float = option(
        1.0, help="length to which gradients are cut; 0 for none", group=_DESCENT, check=at_least(0)
    )
    ema: float = option(
        0.0,
        help="decay of a moving average, such as 0.999, which is the result in place of the last values; 0 "
        "for none",
        group=_DESCENT,
        check=Bounds(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    )
    caption_dropout: float = option(
        0.1,
        help="share of the examples that are trained without their caption",
        group=_DESCENT,
        check=between(0, 1),
    )
    seed: int = option(
        0, help="of noise, order and the adapter's first numbers", group=_DESCENT, check=between(0, MAX_SEED)
    )
    timestep_sampling: TimestepSampling = option(
        "shift",
        help="how noise levels are drawn: `uniform`; `sigmoid` of a normal number; `shift`, which moves that "
        "towards high noise; `logit_normal`, with a mean and a deviation",
        group=_NOISE,
    )
    timestep_shift: float | None = option(
        None,
        help="of `shift`, and of the steps of `direct-distill`",
        group=_NOISE,
        default_text="3; of `direct-distill` the model's for sampling",
        check=positive(),
    )
    logit_mean: float = option(0.0, help="of `logit_normal`", group=_NOISE, check=between(-20, 20))
    logit_std: float = option(
        1.0, help="of the normal number behind a sigmoid", group=_NOISE, check=positive()
    )
    min_timestep: float | None = option(
        None,
        help="0 to 1000: lowest noise level; the distribution is stretched between the limits",
        group=_NOISE,
        default_text=_EXPERTS,
        check=between(0, 1000),
    )
    max_timestep: float | None = option(
        None, help="likewise the highest", group=_NOISE, default_text=_EXPERTS, check=between(0, 1000)
    )
    weighting: LossWeighting = option(
        "none", help="`bell` weighs middle levels more, as DiffSynth-Studio does", group=_NOISE
    )
    gradient_checkpointing: StreamMode = option(
        "auto",
        help="keep only what enters each block, and compute the block again for its gradient: `on`; `off` "
        "keeps all activations, a third faster in many times the memory; `auto`, where half of the memory is "
        "too little for that",
        group=_MEMORY,
        affects="run",
    )
    stream: StreamMode = option(
        "auto",
        help="read the frozen blocks from the disk as they are needed, forward and backward: `on`, `off`, or "
        "`auto`, where they do not fit",
        group=_MEMORY,
        affects="run",
    )
    memory_limit: float | None = option(
        None,
        help="GB that the training may take",
        group=_MEMORY,
        metavar="GB",
        default_text="what the machine has",
        check=positive(),
        affects="run",
    )
    output_dir: WrittenPath = option(
        Path("wan_training"), help="folder of results, state and logs", group=_FILES, affects="run"
    )
    output_name: str = option(
        "trained", help="name of the result without its ending", group=_FILES, affects="run"
    )
    export: ExportName = option(
        "comfyui",
        help="names in an adapter's file: `comfyui`, `peft` (a folder), `kohya` or `diffusers`; all are read "
        "by --lora",
        group=_FILES,
        affects="run",
    )
    save_every: int = option(
        100,
        help="steps between two states and results; 0 for the end alone",
        group=_FILES,
        check=at_least(0),
        affects="run",
    )
    keep_last: int = option(
        3, help="results besides the final one that stay", group=_FILES, check=at_least(0), affects="run"
    )
    resume: bool = option(
        False, help="go on from the state in --output-dir, bit for bit", group=_FILES, affects="run"
    )
    sample_every: int = option(
        0,
        help="steps between videos of --sample-prompts; 0 for none",
        group=_FILES,
        check=at_least(0),
        affects="run",
    )
    sample_prompts: ReadPath | None = option(
        None,
        help="list of videos as --prompts-file of generate_wan takes it",
        group=_FILES,
        metavar="FILE",
        affects="run",
    )
    lost_after: float = lost_after_option(PARALLEL_GROUP)
    tensorboard: bool = option(
        False,
        help="write TensorBoard's events besides log.jsonl; needs `pip install mlx-video[tensorboard]`",
        group=_FILES,
        affects="run",
    )

    def __post_init__(self) -> None:
        check_options(self)
        settle_paths(self)
        self._refuse_other_tasks()
        self._refuse_idle()
        low, high = self.min_timestep, self.max_timestep
        if low is not None and high is not None and low >= high:
            raise RequestError("min_timestep", f"{low:g}: must be below --max-timestep {high:g}.")
        if bool(self.sample_every) != (self.sample_prompts is not None):
            absent = "sample_prompts" if self.sample_every else "sample_every"
            raise RequestError(absent, "is missing: --sample-every and --sample-prompts go together.")
        if "/" in self.output_name or not self.output_name.strip("."):
            raise RequestError(
                "output_name", f"{self.output_name!r}: must be a file's name without a folder."
            )

    def _refuse_other_tasks(self) -> None:
        """Refuse options of another task."""
        declared = options_of(TrainRequest)
        for task, names in _OF_TASKS.items():
            for name in names:
                if task != self.task and getattr(self, name) != declared[name].default:
                    raise RequestError(
                        name, f"{getattr(self, name)}: decides nothing of --task {self.task}. Leave it out."
                    )

    def _refuse_idle(self) -> None:
        """Refuse what would decide nothing."""
        if self.network == "full":
            for name in ("alpha", "init_lora"):
                if getattr(self, name) is not None:
                    raise RequestError(name, "counts only for adapters. Drop it, or take --network lora.")
            if self.export != "comfyui":
                raise RequestError("export", f"{self.export}: counts only for adapters. Drop it.")
        if self.network in ("loha", "lokr") and self.export in ("peft", "diffusers"):
            raise RequestError(
                "export", f"{self.export}: has no names for `{self.network}`. Take comfyui or kohya."
            )

    @property
    def walk_steps(self) -> int | None:
        """Steps that a student learns to do with; None for no student."""
        return self.distill_steps if self.task == "direct-distill" else None

    @property
    def scale_alpha(self) -> float:
        """Alpha of the adapter."""
        return float(self.rank) if self.alpha is None else self.alpha
