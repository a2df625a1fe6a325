"""The small trained model that ships with the package, converted into a cache folder on first use."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mlx_video import __version__
from mlx_video.events import Event, FileWritten, Notice
from mlx_video.pipeline.convert import convert
from mlx_video.request import ConvertRequest

DEMO_CHECKPOINT = Path(__file__).parent.parent / "demo_model"
DEMO_PROMPT = "a red circle moving right on a white background"


def cache_folder() -> Path:
    """Where converted copies live: $MLX_VIDEO_CACHE, else the system's usual cache folder."""
    if folder := os.environ.get("MLX_VIDEO_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mlx-video"


def demo_model_path() -> Path:
    """The converted demo's folder; its name follows the weights and the version that converts them."""
    digest = hashlib.sha256(__version__.encode())
    for file in sorted(DEMO_CHECKPOINT.rglob("*")):
        if file.is_file():
            digest.update(file.read_bytes())
    return cache_folder() / f"demo-{digest.hexdigest()[:12]}"


def convert_demo_model() -> Iterator[Event]:
    """Convert the demo model unless an earlier run did; float32, since it is tiny and runs on CPUs too."""
    path = demo_model_path()
    yield Notice(f"No --model-dir: using the demo model, which draws coloured shapes ({path}).")
    if not (path / "config.json").exists():
        events = convert(ConvertRequest(DEMO_CHECKPOINT, path, dtype="float32"))
        yield from (event for event in events if not isinstance(event, FileWritten))


def demo_model_folder() -> Path:
    """The converted demo's folder, converted now if need be."""
    for _ in convert_demo_model():
        pass
    return demo_model_path()
