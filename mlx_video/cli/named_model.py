"""The model that a command's options name, opened."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_video.config import ModelConfig
    from mlx_video.events import Work
    from mlx_video.layouts.model_folder import ModelFolder
    from mlx_video.loading.model_parts import ModelParts


def open_model_of(args: argparse.Namespace, *, takes_image: bool) -> Work[tuple[ModelFolder, ModelConfig]]:
    """Open the model that options of a `ModelRequest` name; a demo model, converted at first, for none.

    Args:
        args: parsed.
        takes_image: which of the demo models serves.
    """
    from mlx_video.convert.demo_model import convert_demo_model, demo_model_path
    from mlx_video.loading.components import open_named_model

    if args.folder is None:
        yield from convert_demo_model(takes_image=takes_image)
    place = args.folder or demo_model_path(takes_image=takes_image)
    return (yield from open_named_model(place, args.revision, parts_of(args)))


def parts_of(args: argparse.Namespace) -> ModelParts:
    """The components that options name in place of a model's own."""
    from mlx_video.loading.model_parts import parts_named

    return parts_named(args)
