"""The model that a command's options name, opened."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from mlx_video.request import INPUTS, given_inputs
from mlx_video.request.option import is_given

if TYPE_CHECKING:
    from mlx_video.config import ModelConfig
    from mlx_video.events import Work
    from mlx_video.layouts.model_folder import ModelFolder
    from mlx_video.loading.model_parts import ModelParts
    from mlx_video.request import GenerateRequest


def inputs_among(options: Mapping[str, Any]) -> set[str]:
    """Names of the inputs among the values of options; a video that goes on begins with a picture."""
    begins = ("image",) if options["continue_from"] is not None else ()
    return {*begins, *(name for name in INPUTS if name in options and is_given(options[name]))}


def inputs_of(requests: Iterable[GenerateRequest]) -> set[str]:
    """Names of the inputs that requests bring; a video that goes on from another begins with its picture."""
    inputs: set[str] = set()
    for request in requests:
        inputs.update(given_inputs(request), ("image",) if request.continue_from is not None else ())
    return inputs


def open_model_of(args: argparse.Namespace, inputs: Collection[str]) -> Work[tuple[ModelFolder, ModelConfig]]:
    """Open the model that options of a `ModelRequest` name; a demo model, converted at first, for none.

    Args:
        args: parsed.
        inputs: names of those that videos bring, which decide which of the demo models serves.
    """
    from mlx_video.convert.demo_model import convert_demo_model, demo_for
    from mlx_video.loading.components import open_named_model

    place = args.folder
    if place is None:
        demo = demo_for(inputs)
        yield from convert_demo_model(demo)
        place = demo.path()
    return (yield from open_named_model(place, args.revision, parts_of(args)))


def parts_of(args: argparse.Namespace) -> ModelParts:
    """The components that options name in place of a model's own."""
    from mlx_video.loading.model_parts import parts_named

    return parts_named(args)
