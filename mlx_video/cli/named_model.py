"""The model that a command's options name, opened."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_video.config import ModelConfig
    from mlx_video.convert.demo_model import DemoModel
    from mlx_video.events import Work
    from mlx_video.layouts.model_folder import ModelFolder
    from mlx_video.loading.model_parts import ModelParts
    from mlx_video.request import GenerateRequest


def demo_of(request: GenerateRequest) -> DemoModel:
    """The demo model for a request; a video that goes on from another one begins with a picture of it."""
    from mlx_video.convert.demo_model import demo_for
    from mlx_video.request import given_inputs

    begins = ("image",) if request.continue_from is not None else ()
    return demo_for({*given_inputs(request), *begins})


def open_model_of(
    args: argparse.Namespace, request: GenerateRequest
) -> Work[tuple[ModelFolder, ModelConfig]]:
    """Open the model that options of a `ModelRequest` name; a demo model, converted at first, for none.

    Args:
        args: parsed.
        request: decides which of the demo models serves.
    """
    from mlx_video.convert.demo_model import convert_demo_model
    from mlx_video.loading.components import open_named_model

    place = args.folder
    if place is None:
        demo = demo_of(request)
        yield from convert_demo_model(demo)
        place = demo.path()
    return (yield from open_named_model(place, args.revision, parts_of(args)))


def parts_of(args: argparse.Namespace) -> ModelParts:
    """The components that options name in place of a model's own."""
    from mlx_video.loading.model_parts import ModelParts

    return ModelParts(args.text_encoder, args.vae, args.tokenizer)
