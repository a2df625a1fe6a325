"""What must be the same on every machine: versions of the packages, and the model's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_video import __version__
from mlx_video.distributed.cluster import Cluster
from mlx_video.errors import CheckpointError, ClusterError
from mlx_video.formats.fingerprint import fingerprint_weights
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.models.dispatch import device_facts
from mlx_video.planning.budget import find_machine


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine, as far as the others depend on it.

    Attributes:
        versions: of the packages.
        files: name of a file of the model, or path of an adapter → its fingerprint.
        chip: name of the device that computes.
        memory_bytes: of the machine.
    """

    versions: Mapping[str, str]
    files: Mapping[str, str]
    chip: str
    memory_bytes: int

    def as_json(self) -> dict[str, Any]:
        """The facts, to be sent."""
        return {**asdict(self), "versions": dict(self.versions), "files": dict(self.files)}


def find_facts(model: ModelFolder | None, adapters: Iterable[str] = ()) -> MachineFacts:
    """Facts of this machine.

    Args:
        model: that is used; None for the machine alone.
        adapters: paths of adapters; one that is not there counts as absent.
    """
    version = mx.__version__  # type: ignore[attr-defined]  # missing from the stubs
    files = {} if model is None else {path.name: fingerprint_weights(path) for path in _files(model)}
    files |= {path: _fingerprint_or_absent(Path(path)) for path in adapters}
    chip = str(device_facts().get("device_name", "an unknown chip"))
    return MachineFacts({"mlx-video": __version__, "mlx": version}, files, chip, find_machine().memory_bytes)


def _files(model: ModelFolder) -> Iterable[Path]:
    return (*model.transformers.values(), *model.parts.values(), *model.second_files.values())


def _fingerprint_or_absent(path: Path) -> str:
    try:
        return fingerprint_weights(path)
    except (CheckpointError, OSError):
        return "absent"


def gather_facts(cluster: Cluster, own: MachineFacts, adapters: Iterable[str] = ()) -> list[MachineFacts]:
    """Facts of all machines, by rank, once all have opened their model.

    Raises:
        ClusterError: a machine is lost or cannot open the model.
    """
    assert cluster.channel is not None
    cluster.channel.send_all("facts", adapters=[*adapters])
    answers = cluster.channel.receive_all()
    return [own, *(MachineFacts(**answers[rank].values) for rank in sorted(answers))]


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
                raise ClusterError(f"{cluster.describe(rank)} would make another video: {told}. {cure}")


_SAME_VERSIONS = "Install the same versions on all machines."
_SAME_FILES = "Copy the files from one machine to the others; what was converted elsewhere differs."
