"""What machines are, how they reach each other, and what they would gain together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlx_video.config import ModelConfig
from mlx_video.distributed.channel import EndOfWork
from mlx_video.distributed.cluster import Cluster
from mlx_video.events import Event, TextResult
from mlx_video.geometry import measure, round_size
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.planning.budget import GB
from mlx_video.planning.machine_gains import (
    PUBLISHED,
    SHARINGS,
    Link,
    StepSize,
    predict_gain,
    size_published,
    step_seconds,
    step_traffic,
)
from mlx_video.planning.model_sizes import read_model_sizes
from mlx_video.planning.weight_bytes import weigh
from mlx_video.runs.cluster.machine_facts import (
    MachineFacts,
    answer_facts,
    find_facts,
    gather_facts,
    measure_together,
    refuse_differences,
)
from mlx_video.tables import text_table


def check_cluster(
    cluster: Cluster, model: ModelFolder | None, sizes: Mapping[str, StepSize]
) -> Iterator[Event]:
    """Tell of machines, their link, and what is predicted for steps of some sizes, as rank 0.

    Args:
        cluster: of at least two.
        model: that all have opened; None for none.
        sizes: what is made, in words, and its steps.

    Raises:
        ClusterError: a machine differs from the others, or is lost.
    """
    facts = gather_facts(cluster, find_facts(model))
    yield from map(TextResult, text_table([_MACHINE_HEAD, *_machine_rows(cluster, facts)]))
    refuse_differences(cluster, facts)
    link = measure_together(cluster)
    yield TextResult(f"link between neighbours, measured: {link}")
    rate = min(each.rate for each in facts)
    yield TextResult(
        f"predicted for {cluster.size} machines of {rate / 1e12:.3g} TFLOPS and this link, all weights in "
        "memory; only a run tells what is so:"
    )
    yield from map(TextResult, text_table([_GAIN_HEAD, *gain_rows(sizes, cluster.size, rate, link)]))


def answer_check(cluster: Cluster, model: ModelFolder | None) -> None:
    """Take part in :func:`check_cluster` as another."""
    assert cluster.channel is not None
    try:
        while True:
            message = cluster.channel.receive(0)
            if message.do == "measure":
                measure_together(cluster)
            else:
                answer_facts(cluster, model, message)
    except EndOfWork:
        pass


def published_sizes(width: int, height: int, num_frames: int) -> dict[str, StepSize]:
    """Steps of the published models, at a size in pixels."""
    strides = {"1.3B": (4, 8, 8), "5B": (4, 16, 16), "14B": (4, 8, 8)}
    return {
        f"{name} {width}x{height}x{num_frames}": size_published(
            config, _count_tokens((width, height, num_frames), strides[name], config.patch_size)
        )
        for name, config in PUBLISHED.items()
    }


def model_size(model: ModelFolder, config: ModelConfig, width: int, height: int, num_frames: int) -> StepSize:
    """A step of a model's own, at a size in pixels."""
    sizes = read_model_sizes(model, config)
    order = sizes.network.block_order(config.transformer)
    weights = max((weigh(infos, order) for infos in sizes.transformers.values()), key=lambda each: each.total)
    tokens = _count_tokens((width, height, num_frames), config.vae.stride, config.transformer.patch_size)
    return StepSize(config.transformer, tokens, 2, sum(weights.blocks), weights.number_bytes)


def gain_rows(
    sizes: Mapping[str, StepSize], machines: int, rate: float, link: Link
) -> Iterator[Sequence[str]]:
    """Rows of a table of what is predicted; of each size the ways that so many machines can take."""
    for name, step in sizes.items():
        alone = step_seconds(None, step, 1, rate, link)
        yield name, "one machine", _seconds(alone), "1", "1", "0"
        for mode, sharing in SHARINGS.items():
            fits = mode != "tensor" or step.config.num_heads >= machines
            if fits and machines % sharing.groups == 0:
                yield "", f"--parallel {mode}", *_predict(mode, step, machines, rate, link)


def _predict(mode: str, step: StepSize, machines: int, rate: float, link: Link) -> tuple[str, ...]:
    unguided = StepSize(step.config, step.tokens, 1, step.block_bytes, step.number_bytes)
    gains = [predict_gain(mode, each, machines, rate, link) for each in (step, unguided)]
    seconds = step_seconds(mode, step, machines, rate, link)
    sent = step_traffic(mode, step, machines).nbytes
    return _seconds(seconds), *(f"{gain:.2f}" for gain in gains), f"{sent / GB:.3g} GB"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


_MACHINE_HEAD = ("machine", "chip", "memory", "may use", "TFLOPS", "mlx-video", "mlx")
_GAIN_HEAD = ("video", "way", "guided step", "times as fast", "without guidance", "each sends")


def _machine_rows(cluster: Cluster, facts: Sequence[MachineFacts]) -> Iterator[Sequence[str]]:
    for rank, each in enumerate(facts):
        memory, budget = f"{each.memory_bytes / GB:.1f} GB", f"{each.budget_bytes / GB:.1f} GB"
        rate = f"{each.rate / 1e12:.3g}"
        yield cluster.describe(rank), each.chip, memory, budget, rate, *each.versions.values()


def _count_tokens(
    size: tuple[int, int, int], stride: tuple[int, int, int], patch_size: tuple[int, int, int]
) -> int:
    width, height = round_size(*size[:2], stride, patch_size)
    return measure(width, height, size[2], z_dim=1, stride=stride, patch_size=patch_size).num_tokens
