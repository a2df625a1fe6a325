"""Whether a request brings what a model needs and nothing that it cannot take, told before any file opens."""

from __future__ import annotations

from collections.abc import Collection

from mlx_video.conditioning.control.camera_path import POSE_NUMBERS, PRESETS
from mlx_video.conditioning.control.units import read_one_frame
from mlx_video.config import ModelConfig
from mlx_video.errors import RequestError
from mlx_video.layouts.components import list_parts
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.request import INPUTS, GenerateRequest, flag_of, given_inputs
from mlx_video.request.option import is_given
from mlx_video.variants.variant import Variant
from mlx_video.weights.component_networks import find_network

COMMON_INPUTS = ("input_video",)
"""Videos that every model takes."""


def check_inputs(request: GenerateRequest, variant: Variant) -> None:
    """Refuse a request that lacks what the variant needs, or brings what it cannot take.

    Raises:
        RequestError: a required input is missing, one is given that the model does not take, or two that
            do not go together.
    """
    given = given_inputs(request)
    for name in variant.inputs.required:
        if name not in given:
            raise RequestError(name, f"missing: {variant.title} needs it.")
    alternatives = variant.inputs.alternatives
    chosen = [name for name in alternatives if getattr(request, name) is not None]
    if alternatives and len(chosen) != 1:
        flags = " or ".join(map(flag_of, alternatives))
        raise RequestError(
            alternatives[0], f"{'beside others' if chosen else 'missing'}: {variant.title} needs {flags}."
        )
    for name in given:
        if name not in (*variant.inputs.all, *COMMON_INPUTS):
            raise RequestError(name, f"{variant.title} {_describe_inputs(variant)}. Leave the option out.")
        if others := [other for other in variant.inputs.shorthands.get(name, ()) if other in given]:
            raise RequestError(
                name, f"beside {' and '.join(map(flag_of, others))} it has no place. Put it into the video."
            )
    if request.vace_scale != 1 and "vace_video" not in variant.inputs.all:
        raise RequestError("vace_scale", f"{variant.title} has no VACE blocks. Leave the option out.")
    for name in ("num_clips", "infer_frames", "start_from_ref"):
        if getattr(request, name) and "input_audio" not in variant.inputs.all:
            raise RequestError(name, f"{variant.title} is no speech-to-video model. Leave the option out.")
    if not request.longcat_kv_cache and "longcat_video" not in variant.inputs.all:
        raise RequestError("longcat_kv_cache", f"{variant.title} keeps none. Leave the option out.")
    if request.num_frames == 1 and request.bernini_reference_image:
        raise RequestError(
            "bernini_reference_image",
            "beside --num-frames 1: pictures of what is to appear are for videos. Ask for 5 frames or more.",
        )
    _check_camera(request)
    _check_one_frame(request, variant, given)


def check_parts(request: GenerateRequest, model: ModelFolder) -> None:
    """Refuse an option that calls for a component which the model's folder lacks.

    Raises:
        RequestError: it names what is absent.
    """
    for row in list_parts():
        option = find_network(row.name).called_by
        if option and is_given(getattr(request, option)) and row.name not in model.parts:
            raise RequestError(
                option, f"{model.path} holds no {row.file_name}; this model {row.use}. {row.advice}"
            )


def _check_one_frame(request: GenerateRequest, variant: Variant, given: Collection[str]) -> None:
    """Refuse what does not go with one picture in place of a video."""
    options = {name: getattr(request, name) for name in INPUTS}
    if read_one_frame(options, len(request.control_image)) is None:
        return
    for name in given:
        if name not in (*variant.inputs.required, *variant.inputs.one_frame):
            raise RequestError(
                name, f"beside --target-index {variant.title} does not read it. Leave the option out."
            )


def _check_camera(request: GenerateRequest) -> None:
    """Refuse camera options that say nothing beside each other."""
    origin, trajectory = request.camera_control_origin, request.camera_trajectory
    if origin is not None and len(origin) != POSE_NUMBERS:
        raise RequestError(
            "camera_control_origin", f"{len(origin)} numbers: a pose has {POSE_NUMBERS}. Give all of them."
        )
    for name in ("camera_control_speed", "camera_control_origin"):
        if getattr(request, name) is not None and trajectory and str(trajectory) not in PRESETS:
            raise RequestError(name, f"{trajectory} is a file of poses, which say all. Leave the option out.")


def _describe_inputs(variant: Variant) -> str:
    """What a variant's video is made from, after its title."""
    inputs = variant.inputs
    names = (*inputs.required, *inputs.optional, *inputs.alternatives, *inputs.shorthands)
    flags = [flag_of(name) for name in names if INPUTS[name] not in ("text", "number")]
    if not flags:
        return "makes videos from text alone"
    if flags == ["--image"]:
        return "takes a first image alone"
    return f"takes {', '.join(flags)} and nothing else of that kind"


def check_layer_scales(request: GenerateRequest, config: ModelConfig, variant: Variant) -> None:
    """Refuse another number of scales than a model has VACE blocks.

    Raises:
        RequestError: there are more or fewer.
    """
    scales, count = request.vace_scale, len(config.transformer.vace_layers)
    if isinstance(scales, tuple) and len(scales) not in (1, count):
        raise RequestError(
            "vace_scale",
            f"{','.join(f'{scale:g}' for scale in scales)}: {len(scales)} numbers, but {variant.title} has "
            f"{count} VACE blocks. Give one number, or {count}.",
        )
