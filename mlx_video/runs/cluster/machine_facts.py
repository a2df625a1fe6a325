"""What must be the same on every machine: versions of the packages, and the model's files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import __version__
from mlx_video.distributed.cluster import Cluster
from mlx_video.distributed.collectives import Collectives
from mlx_video.distributed.link import measure_link, measure_rate
from mlx_video.distributed.wire import Message
from mlx_video.errors import CheckpointError, ClusterError
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.models.dispatch import current_limits, device_facts
from mlx_video.planning.budget import find_budget, find_machine
from mlx_video.planning.machine_gains import Link


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine, as far as the others depend on it.

    Attributes:
        versions: of the packages.
        files: name of a file of the model, or path of an adapter → its fingerprint.
        chip: name of the device that computes.
        memory_bytes: of the machine.
        budget_bytes: of them, that a run may take.
        rate: operations a second of its device, as tabled; measured in products where no table tells.
    """

    versions: Mapping[str, str]
    files: Mapping[str, str]
    chip: str
    memory_bytes: int
    budget_bytes: int
    rate: float

    def as_json(self) -> dict[str, Any]:
        """The facts, to be sent."""
        return {**asdict(self), "versions": dict(self.versions), "files": dict(self.files)}


def find_facts(
    model: ModelFolder | None, adapters: Iterable[str] = (), memory_limit: float | None = None
) -> MachineFacts:
    """Facts of this machine.

    Args:
        model: that is used; None for the machine alone.
        adapters: paths of adapters; one that is not there counts as absent.
        memory_limit: GB that the user allows; None for what there is.
    """
    version = mx.__version__  # type: ignore[attr-defined]  # missing from the stubs
    files = {} if model is None else {path.name: fingerprint_weights(path) for path in _files(model)}
    files |= {path: _fingerprint_or_absent(Path(path)) for path in adapters}
    chip = str(device_facts().get("device_name", "an unknown chip"))
    machine = find_machine()
    budget = find_budget(machine, memory_limit).nbytes
    tabled = current_limits().flops_per_second
    rate = tabled if math.isfinite(tabled) else measure_rate()
    versions = {"mlx-video": __version__, "mlx": version}
    return MachineFacts(versions, files, chip, machine.memory_bytes, budget, rate)


def _files(model: ModelFolder) -> Iterable[Path]:
    return (*model.transformers.values(), *model.parts.values(), *model.second_files.values())


def _fingerprint_or_absent(path: Path) -> str:
    try:
        return fingerprint_weights(path)
    except (CheckpointError, OSError):
        return "absent"


def gather_facts(
    cluster: Cluster, own: MachineFacts, adapters: Iterable[str] = (), memory_limit: float | None = None
) -> list[MachineFacts]:
    """Facts of all machines, by rank, once all have opened their model.

    Raises:
        ClusterError: a machine is lost or cannot open the model.
    """
    assert cluster.channel is not None
    cluster.channel.send_all("facts", adapters=[*adapters], memory_limit=memory_limit)
    answers = cluster.channel.receive_all()
    return [own, *(MachineFacts(**answers[rank].values) for rank in sorted(answers))]


def answer_facts(cluster: Cluster, model: ModelFolder | None, message: Message) -> None:
    """Tell rank 0 what it asks for in :func:`gather_facts`, as another.

    Raises:
        ClusterError: rank 0 is lost.
    """
    assert cluster.channel is not None
    cluster.channel.send(0, "facts", **find_facts(model, **message.values).as_json())


def measure_together(cluster: Cluster) -> Link:
    """The slowest link between neighbours, which all machines measure at the same time.

    Raises:
        ClusterError: a machine is lost.
    """
    assert cluster.group is not None
    assert cluster.channel is not None
    if cluster.leads:
        cluster.channel.send_all("measure")
    with cluster.channel.collective():
        return measure_link(Collectives(cluster.group))


def refuse_differences(cluster: Cluster, facts: list[MachineFacts]) -> None:
    """Make sure that all machines compute the same.

    Raises:
        ClusterError: a machine differs from this one; it names the machine and both values.
    """
    own = facts[0]
    for rank, other in enumerate(facts[1:], start=1):
        for kind, cure in (("versions", _SAME_VERSIONS), ("files", _SAME_FILES)):
            here, there = getattr(own, kind), getattr(other, kind)
            names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
            if names:
                told = "; ".join(
                    f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} on "
                    f"{cluster.describe(0)}"
                    for name in names
                )
                raise ClusterError(f"{cluster.describe(rank)} would compute something else: {told}. {cure}")


_SAME_VERSIONS = "Install the same versions on all machines."
_SAME_FILES = "Copy the files from one machine to the others; what was converted elsewhere differs."
