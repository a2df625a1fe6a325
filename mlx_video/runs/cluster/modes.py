"""How machines share the work: what each mode asks for, and which suits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlx_video.distributed.cluster import Cluster
from mlx_video.errors import RequestError
from mlx_video.request.choices import ParallelMode
from mlx_video.runs.cluster.step_split import StepSplit


@dataclass(frozen=True, slots=True)
class StepMode:
    """A way to share the steps of one video.

    Attributes:
        split: who computes what, for a cluster.
        fits: whether so many machines can share the work so.
        needs: which numbers of machines can, for the error about another.
    """

    split: Callable[[Cluster], StepSplit]
    fits: Callable[[int], bool]
    needs: str


STEP_MODES: Mapping[ParallelMode, StepMode] = {
    "guidance": StepMode(lambda cluster: StepSplit(cluster.size, 2), lambda size: size == 2, "2"),
}
"""Modes in which machines make one video together; "data" shares out whole videos."""


def check_mode(mode: ParallelMode, size: int) -> None:
    """Make sure that so many machines can share the work so.

    Raises:
        RequestError: they cannot.
    """
    if mode in ("data", "auto"):
        return
    if mode not in STEP_MODES:
        ready = ", ".join(("data", *STEP_MODES))
        raise RequestError("parallel", f"{mode}: is not there yet. Choose one of {ready}.")
    if not STEP_MODES[mode].fits(size):
        raise RequestError(
            "parallel",
            f"{mode}: works on {STEP_MODES[mode].needs} machines, {size} were started. Start as many, or "
            "choose another mode.",
        )


def make_split(mode: ParallelMode, cluster: Cluster) -> StepSplit:
    """Who computes what of the steps in a mode."""
    return STEP_MODES[mode].split(cluster)
