"""How many bytes a training takes, and whether its blocks stay in memory or are streamed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from mlx_video.config import TransformerConfig
from mlx_video.errors import MemoryBudgetError, RequestError
from mlx_video.formats.tensor_info import TensorInfo
from mlx_video.loading.open_parts import open_transformer
from mlx_video.models.peak import WIDE, Peak
from mlx_video.planning.budget import GB
from mlx_video.planning.choices import MemoryChoices
from mlx_video.planning.memory_plan import MemoryPlan, StagePlan
from mlx_video.planning.memory_task import Host
from mlx_video.planning.stage_peaks import weight_bytes_in_use
from mlx_video.planning.weight_bytes import WeightBytes, weigh
from mlx_video.request.train import OptimizerName, TrainRequest
from mlx_video.training.attention import count_rows
from mlx_video.training.factors import KINDS, FactorKind
from mlx_video.training.plan import TrainingPlan

STAGE = "training"

# Arrays of a block on its way back that exist together, as measured on a CPU: of all tokens at the
# transformer's width and at the feed-forward's, and of the text's at the transformer's.
_STREAM_ARRAYS, _HIDDEN_ARRAYS, _TEXT_ARRAYS = 6.0, 10.0, 35.0
_SCORE_ARRAYS, _SCORE_ARRAYS_AHEAD = 4.5, 10.0
"""Scores of a chunk of attention; and where there are many chunks, those that MLX schedules ahead."""
_SAVED_STREAM_ARRAYS, _SAVED_HIDDEN_ARRAYS = 12.0, 5.6
"""The same of what a block leaves where activations are kept."""
_WEIGHT_COPIES = 2.6
"""Float32 copies of the largest weight, where weights are of another type than products."""

_CHANGE_ARRAYS = 3.0
"""Arrays of the size of a weight that an adapter changes, where the change is computed as a whole."""

_SHARE_FOR_ACTIVATIONS = 0.5
_UPDATE_ARRAYS = 2.5
"""Gradients, the next values, and what they are computed by, in the size of the values."""


@dataclass(frozen=True, slots=True)
class TrainingSize:
    """What decides the memory of a training.

    Attributes:
        config: of the transformer.
        weights: of its file.
        num_tokens: of the largest example.
        image_tokens: that cross-attention reads besides the text.
        trained: numbers that are trained.
        optimizer_numbers: that the optimizer keeps.
        trained_bytes: of one trained number.
        request: of the user.
        changed: numbers of all weights that an adapter changes and computes its change of as a whole.
    """

    config: TransformerConfig
    weights: WeightBytes
    num_tokens: int
    image_tokens: int
    trained: int
    optimizer_numbers: int
    trained_bytes: int
    request: TrainRequest
    changed: int = 0


def read_infos(plan: TrainingPlan) -> tuple[TensorInfo, ...]:
    """Tensors of the transformer that is trained.

    Raises:
        CheckpointError: its file is damaged.
    """
    with open_transformer(plan.model.transformers[plan.transformer]) as source:
        return tuple(source.infos.values())


def measure_training(
    plan: TrainingPlan, infos: Sequence[TensorInfo], num_tokens: int, image_tokens: int = 0
) -> TrainingSize:
    """The size of a training.

    Args:
        plan: of it.
        infos: of the transformer's file.
        num_tokens: of its largest example.
        image_tokens: that its examples have.
    """
    weights = weigh(infos, plan.network.block_order(plan.config.transformer))
    if plan.config.quantization is not None:
        weights = replace(weights, bits=plan.config.quantization.bits)
    if plan.adapter is None:
        # All of it is trained in float32, and so are those of its weights that are not.
        shapes = [info.shape for info in infos if plan.trains(info.name)]
        widened = WIDE / weights.number_bytes
        weights = replace(
            weights,
            blocks=tuple(int(widened * each) for each in weights.blocks),
            others=int(widened * weights.others),
            number_bytes=WIDE,
        )
    else:
        shapes = list(_factor_shapes(KINDS[plan.adapter.kind], plan))
    optimizer = sum(map(_OPTIMIZER_NUMBERS[plan.request.optimizer], shapes))
    return TrainingSize(
        plan.config.transformer,
        weights,
        num_tokens,
        image_tokens,
        sum(map(math.prod, shapes)),
        optimizer,
        WIDE if plan.adapter is None else plan.adapter.dtype.size,
        plan.request,
        _count_changed(plan),
    )


def _count_changed(plan: TrainingPlan) -> int:
    if plan.adapter is None or not KINDS[plan.adapter.kind].is_whole:
        return 0
    return sum(map(math.prod, plan.adapter.layers.values()))


Shape = tuple[int, ...]


def _factor_shapes(kind: FactorKind, plan: TrainingPlan) -> Iterator[Shape]:
    assert plan.adapter is not None
    for rows, columns in plan.adapter.layers.values():
        yield from kind.shapes(rows, columns, plan.adapter.rank)


def _factored(shape: Shape) -> int:
    """Adafactor keeps sums of rows and of columns."""
    return sum(shape[-2:]) * math.prod(shape[:-2]) if len(shape) > 1 else math.prod(shape)


_OPTIMIZER_NUMBERS: Mapping[OptimizerName, Callable[[Shape], int]] = MappingProxyType(
    {
        "adamw": lambda shape: 2 * math.prod(shape),
        "lion": lambda shape: math.prod(shape),
        "adafactor": _factored,
    }
)
"""Optimizer → numbers that it keeps of an array of a shape."""


@dataclass(frozen=True, slots=True)
class MemoryWay:
    """One way to train in more or less memory; none changes a number.

    Attributes:
        streams: whether blocks are read as they are needed.
        checkpoints: whether they are computed again for their gradients.
    """

    streams: bool = False
    checkpoints: bool = True


def training_peak(size: TrainingSize, host: Host, way: MemoryWay) -> Peak:
    """Peak of a training.

    Args:
        size: of it.
        host: where it runs.
        way: how it trains.
    """
    weights, request = size.weights, size.request
    values, state = (count * size.trained_bytes for count in (size.trained, size.optimizer_numbers))
    average = values if request.ema else 0
    held = weight_bytes_in_use(weights, 0 if way.streams else None)
    held += state + average + (0 if request.network == "full" else values)
    compute = weights.number_bytes if host.machine.on_gpu else WIDE
    # Gradients, and what they are multiplied by; sums of the examples before, and of a walk's later steps.
    walk_steps = request.walk_steps or 1
    gradients = values * (2 + (request.gradient_accumulation > 1) + (walk_steps > 1))
    descending = _block_bytes(size, host, compute) + _kept_bytes(size, compute, way) + gradients
    descending += walk_steps * _latent_bytes(size) + _change_bytes(size, way)
    # Gradients, and the next values, state and average beside the last, which Ctrl-C may still want.
    updating = int(_UPDATE_ARRAYS * values) + state + average
    needed, usual = (
        max(descending + arrays * _chunk_bytes(size), updating)
        for arrays in (_SCORE_ARRAYS, _SCORE_ARRAYS_AHEAD if _has_chunks(size) else _SCORE_ARRAYS)
    )
    return Peak(int(needed), int(usual)).beside(held)


def _row_scores(size: TrainingSize) -> int:
    """Scores of one query."""
    config = size.config
    return config.num_heads * max(size.num_tokens, config.text_len + size.image_tokens)


def _has_chunks(size: TrainingSize) -> bool:
    return count_rows(_row_scores(size)) < size.num_tokens


def _chunk_bytes(size: TrainingSize) -> int:
    """Of the scores of a chunk of queries."""
    row = _row_scores(size)
    return min(size.num_tokens, count_rows(row)) * row * WIDE


def _block_bytes(size: TrainingSize, host: Host, compute: int) -> int:
    """Of one block on the way back, without scores."""
    config, tokens = size.config, size.num_tokens
    text = config.text_len + size.image_tokens
    arrays = tokens * (_STREAM_ARRAYS * config.dim + _HIDDEN_ARRAYS * config.ffn_dim)
    arrays += _TEXT_ARRAYS * text * config.dim
    copies = 0.0
    if not host.machine.on_gpu and (size.weights.bits is not None or size.weights.number_bytes != WIDE):
        copies = _WEIGHT_COPIES * config.dim * config.ffn_dim * WIDE
    return int(arrays * compute + copies)


def _change_bytes(size: TrainingSize, way: MemoryWay) -> int:
    """Of changes of weights that are computed as a whole: those of one block, or of all."""
    blocks = len(size.weights.blocks) if way.checkpoints else 1
    return int(_CHANGE_ARRAYS * size.changed * WIDE / blocks)


def _latent_bytes(size: TrainingSize) -> int:
    """Of the latents of an example."""
    return size.num_tokens * math.prod(size.config.patch_size) * size.config.out_dim * WIDE


def _kept_bytes(size: TrainingSize, compute: int, way: MemoryWay) -> int:
    """Of all blocks: what enters each, or all that each has computed."""
    config = size.config
    if way.checkpoints:
        return len(size.weights.blocks) * size.num_tokens * config.dim * WIDE
    saved = _SAVED_STREAM_ARRAYS * config.dim + _SAVED_HIDDEN_ARRAYS * config.ffn_dim
    # The last block has not let go of anything when it is at its peak.
    return int((len(size.weights.blocks) - 1) * size.num_tokens * saved * compute)


def plan_memory(plan: TrainingPlan, size: TrainingSize, host: Host) -> tuple[MemoryWay, MemoryPlan]:
    """Choose the fastest way that fits, of those that the user allows.

    Args:
        plan: of the training.
        size: of it.
        host: where it runs.

    Raises:
        RequestError: streaming is asked for, and not possible.
    """
    for way in _ways(plan):
        stage = _stage(size, host, way)
        # What is kept of all blocks is estimated less surely.
        room = host.budget.nbytes if way.checkpoints else _SHARE_FOR_ACTIVATIONS * host.budget.nbytes
        if stage.peak.needed <= room or (
            not way.checkpoints and plan.request.gradient_checkpointing == "off"
        ):
            break
    return way, MemoryPlan(host, MemoryChoices(resident_blocks=0 if way.streams else None), (stage,))


def _ways(plan: TrainingPlan) -> Iterator[MemoryWay]:
    """Ways to train, fastest first."""
    request, obstacle = plan.request, find_obstacle(plan)
    if request.stream == "on":
        if obstacle:
            raise RequestError("stream", f"on: {obstacle}. Leave it out.")
        yield MemoryWay(streams=True)
        return
    if request.gradient_checkpointing != "on":
        yield MemoryWay(checkpoints=False)
    if request.gradient_checkpointing != "off":
        yield MemoryWay()
        if request.stream == "auto" and obstacle is None:
            yield MemoryWay(streams=True)


def find_obstacle(plan: TrainingPlan) -> str | None:
    """Why the blocks of a training cannot be streamed; None where they can."""
    if plan.adapter is None:
        return "the transformer's own weights change, and so stay in memory"
    if len(plan.network.block_order(plan.config.transformer)) != plan.config.transformer.num_layers:
        return "blocks beside the main ones stay in memory while they are trained with"
    return None


def _stage(size: TrainingSize, host: Host, way: MemoryWay) -> StagePlan:
    peak, count = training_peak(size, host, way), len(size.weights.blocks)
    blocks = f"{count} blocks, streamed" if way.streams else f"all {count} blocks"
    kept = "what enters them" if way.checkpoints else "all activations"
    what = "all weights in float32" if size.request.network == "full" else f"{size.request.network} beside it"
    read = 2 * sum(size.weights.blocks) if way.streams else 0
    holds = f"transformer, {blocks} and {kept}; {what}"
    return StagePlan(STAGE, holds, peak, peak.within(host.budget.nbytes), read)


def refuse_misfit(memory: MemoryPlan, size: TrainingSize) -> None:
    """Refuse a training that needs more than there is.

    Raises:
        MemoryBudgetError: it does; names what would take less.
    """
    if not memory.misfits:
        return
    (stage,), budget = memory.misfits, memory.host.budget
    cures = ["--memory-limit", "examples of a lower resolution or fewer frames"]
    if size.request.gradient_checkpointing == "off":
        cures.insert(0, "--gradient-checkpointing on")
    if size.request.network == "full":
        cures.append("--network lora, or fewer parameters by --target-modules")
    elif size.weights.bits is None:
        cures.append("a model converted with --quantize")
    raise MemoryBudgetError(
        f"{stage.name} needs {stage.peak.needed / GB:.3g} GB ({stage.holds}), the budget is "
        f"{budget.nbytes / GB:.3g} GB ({budget.reason}). What takes less, or allows more: {'; '.join(cures)}."
    )
