"""The small trained models that ship with the package, converted into a cache folder on first use."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_video import __version__
from mlx_video.convert.convert import convert
from mlx_video.events import Event, FileWritten, Notice
from mlx_video.files.cache_folder import cache_folder
from mlx_video.request import ConvertRequest

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo_model"
DEMO_IMAGE_FOLDER = DEMO_CHECKPOINT / "image_to_video"
DEMO_PROMPT = "a red circle moving right on a white background"

TITLES = {False: "the demo model, which draws coloured shapes", True: "the demo model for images of shapes"}


def demo_files(*, takes_image: bool = False) -> dict[str, Path]:
    """The demo checkpoint's files by their place in the original layout.

    The image-to-video model has a transformer and a config of its own; text encoder, VAE and tokenizer are
    those of the text-to-video model.
    """
    files = {
        str(file.relative_to(DEMO_CHECKPOINT)): file
        for file in sorted(DEMO_CHECKPOINT.rglob("*"))
        if file.is_file() and DEMO_IMAGE_FOLDER not in file.parents
    }
    if takes_image:
        files |= {file.name: file for file in sorted(DEMO_IMAGE_FOLDER.iterdir())}
    return files


@contextmanager
def demo_checkpoint(*, takes_image: bool = False) -> Iterator[Path]:
    """A folder of links to the demo checkpoint's files, in the original layout."""
    with TemporaryDirectory() as folder:
        for name, file in demo_files(takes_image=takes_image).items():
            link = Path(folder) / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file)
        yield Path(folder)


def demo_model_path(*, takes_image: bool = False) -> Path:
    """The converted demo's folder; its name follows the weights and the version that converts them."""
    digest = hashlib.sha256(__version__.encode())
    for file in demo_files(takes_image=takes_image).values():
        digest.update(file.read_bytes())
    kind = "demo-i2v" if takes_image else "demo"
    return cache_folder() / f"{kind}-{digest.hexdigest()[:12]}"


def convert_demo_model(*, takes_image: bool = False) -> Iterator[Event]:
    """Convert a demo model unless an earlier run did; float32, since it is tiny and runs on CPUs too."""
    path = demo_model_path(takes_image=takes_image)
    yield report_demo_model(takes_image=takes_image)
    if not (path / "config.json").exists():
        with demo_checkpoint(takes_image=takes_image) as checkpoint:
            events = convert(ConvertRequest(checkpoint, path, dtype="float32"))
            yield from (event for event in events if not isinstance(event, FileWritten))


def report_demo_model(*, takes_image: bool = False) -> Notice:
    """What to tell a user who named no model."""
    path = demo_model_path(takes_image=takes_image)
    return Notice(f"No --model-dir: using {TITLES[takes_image]} ({path}).")


@contextmanager
def passing_demo_model(*, takes_image: bool = False) -> Iterator[Path]:
    """The converted demo's folder; where there is none yet, one that goes when the block is left."""
    path = demo_model_path(takes_image=takes_image)
    if (path / "config.json").exists():
        yield path
        return
    with TemporaryDirectory() as folder, demo_checkpoint(takes_image=takes_image) as checkpoint:
        place = Path(folder) / path.name
        for _ in convert(ConvertRequest(checkpoint, place, dtype="float32")):
            pass
        yield place


def demo_model_folder(*, takes_image: bool = False) -> Path:
    """The converted demo's folder, converted now if need be."""
    for _ in convert_demo_model(takes_image=takes_image):
        pass
    return demo_model_path(takes_image=takes_image)
