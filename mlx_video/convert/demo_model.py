"""The small trained models that ship with the package, converted into a cache folder on first use."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx

from mlx_video import __version__
from mlx_video.convert.convert import convert
from mlx_video.errors import BusyFolderError
from mlx_video.events import Event, FileWritten, Notice
from mlx_video.files.cache_folder import cache_folder
from mlx_video.request import ConvertRequest
from mlx_video.variants.fun import DEMO_CONTROL
from mlx_video.variants.i2v import DEMO_I2V
from mlx_video.variants.t2v import DEMO
from mlx_video.variants.variant import Variant

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo_model"
SECONDS_BETWEEN_LOOKS = 0.1
DEMO_PROMPT = "a red circle moving right on a white background"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """One of the models that ship.

    Attributes:
        name: what the name of its converted folder begins with.
        title: for people.
        variant: what it is.
        folder: of the files that are its own, named as in the original layout; of the transformer they hold
            the tensors that differ. All else is of the checkpoint of text to video. None for that one.
    """

    name: str
    title: str
    variant: Variant
    folder: Path | None = None

    def own_files(self) -> list[Path]:
        """The files that it does not share."""
        return sorted(self.folder.iterdir()) if self.folder else []

    def path(self) -> Path:
        """The converted folder; its name follows the weights and the version that converts them."""
        digest = hashlib.sha256(__version__.encode())
        for file in (*shared_files(), *self.own_files()):
            digest.update(file.read_bytes())
        return cache_folder() / f"{self.name}-{digest.hexdigest()[:12]}"

    def report(self) -> Notice:
        """What to tell a user who named no model."""
        return Notice(f"No --model-dir: using {self.title} ({self.path()}).")


TEXT_DEMO = DemoModel("demo", "the demo model, which draws coloured shapes", DEMO)
IMAGE_DEMO = DemoModel(
    "demo-i2v", "the demo model for images of shapes", DEMO_I2V, DEMO_CHECKPOINT / "image_to_video"
)
CONTROL_DEMO = DemoModel(
    "demo-control", "the demo model for outlines of shapes", DEMO_CONTROL, DEMO_CHECKPOINT / "control"
)
DEMO_MODELS = (TEXT_DEMO, IMAGE_DEMO, CONTROL_DEMO)


def shared_files() -> list[Path]:
    """The checkpoint of text to video, on which the others build."""
    siblings = {model.folder for model in DEMO_MODELS}
    files = sorted(DEMO_CHECKPOINT.rglob("*"))
    return [file for file in files if file.is_file() and siblings.isdisjoint(file.parents)]


def demo_for(inputs: Collection[str]) -> DemoModel:
    """The demo model that takes the most of what a user gives, by name; of several, the first."""
    return max(DEMO_MODELS, key=lambda model: len({*inputs} & {*model.variant.inputs.all}))


@contextmanager
def demo_checkpoint(model: DemoModel = TEXT_DEMO) -> Iterator[Path]:
    """A demo checkpoint in the original layout: links to its files, and the transformer put together."""
    with TemporaryDirectory() as folder:
        for file in shared_files():
            link = Path(folder) / file.relative_to(DEMO_CHECKPOINT)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        for file in model.own_files():
            _lay_over(file, Path(folder) / file.name)
        yield Path(folder)


def _lay_over(file: Path, place: Path) -> None:
    """Put a file in place of a link to a shared one, or tensors in place of those of the same names."""
    if file.suffix == ".safetensors":
        tensors: dict[str, mx.array] = {}
        for each in (place, file):
            loaded: Any = mx.load(str(each))
            tensors |= loaded
        mx.eval(tensors)
        place.unlink()
        mx.save_safetensors(str(place), tensors)
    else:
        place.unlink()
        place.symlink_to(file)


def convert_demo_model(model: DemoModel = TEXT_DEMO) -> Iterator[Event]:
    """Convert a demo model unless an earlier run did; float32, since it is tiny and runs on CPUs too.

    Where another run converts it just now, its result is waited for.
    """
    path, is_told = model.path(), False
    yield model.report()
    while not (path / "config.json").exists():
        try:
            with demo_checkpoint(model) as checkpoint:
                events = convert(ConvertRequest(checkpoint, path, dtype="float32"))
                yield from (event for event in events if not isinstance(event, FileWritten))
        except BusyFolderError:
            if not is_told:
                yield Notice("Another run converts it just now; waiting for that.")
            is_told = True
            time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def passing_demo_model(model: DemoModel) -> Iterator[Path]:
    """The converted demo's folder; where there is none yet, one that goes when the block is left."""
    path = model.path()
    if (path / "config.json").exists():
        yield path
        return
    with TemporaryDirectory() as folder, demo_checkpoint(model) as checkpoint:
        place = Path(folder) / path.name
        for _ in convert(ConvertRequest(checkpoint, place, dtype="float32")):
            pass
        yield place


def demo_model_folder(model: DemoModel = TEXT_DEMO) -> Path:
    """The converted demo's folder, converted now if need be."""
    for _ in convert_demo_model(model):
        pass
    return model.path()
