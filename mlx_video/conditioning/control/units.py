"""Conditioning units of the control models: what each input becomes, by the name of its option."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_video.conditioning.animate import POSES, read_character
from mlx_video.conditioning.clips import (
    ReadFrames,
    clip_with_frames,
    encode_frames,
    encode_picture,
    read_clip,
)
from mlx_video.conditioning.control.camera_path import PRESETS, path_in_direction, path_of_preset, read_path
from mlx_video.conditioning.control.camera_rays import CameraAddOn, CameraRays
from mlx_video.conditioning.control.fun import FunSource, ReferenceAddOn, encode_slots
from mlx_video.conditioning.control.one_frame import OneFrame, encode_one_frame
from mlx_video.conditioning.control.speed import SpeedAddOn
from mlx_video.conditioning.control.vace import VACEAddOn, VACESource, encode_vace_context
from mlx_video.conditioning.latent_frames import LatentFrames
from mlx_video.conditioning.units import ConditioningUnit, Encoders, Fields, UnitInputs, Work
from mlx_video.config import ImageEncoderConfig
from mlx_video.media.fit import fit_frame, letterbox_reference
from mlx_video.media.resize import to_unit_range

REPAINT = "repaint"
MOTION = "motion_bucket_id"
VACE_REFERENCES = "vace_reference_image"
CONTROL_IMAGES = "control_image"


def _fitted(inputs: UnitInputs, name: str) -> np.ndarray | None:
    """An image of the video's size, float32 in [-1, 1]; None where it is not given."""
    if name not in inputs.originals:
        return None
    geometry = inputs.geometry
    fitted = fit_frame(
        inputs.originals[name], geometry.height, geometry.width, inputs.options.get("fit", "cover")
    )
    return to_unit_range(fitted)


def _ends(inputs: UnitInputs) -> dict[int, np.ndarray]:
    """First and last frame by their numbers, uint8 of the video's size."""
    geometry = inputs.geometry
    numbers = {"image": 0, "end_image": geometry.num_frames - 1}
    fit = inputs.options.get("fit", "cover")
    return {
        number: fit_frame(inputs.originals[name], geometry.height, geometry.width, fit)
        for name, number in numbers.items()
        if name in inputs.originals
    }


# VACE


def vace_source(inputs: UnitInputs) -> VACESource:
    """What the user gave a VACE model; first and last frame become a video and a mask."""
    geometry = inputs.geometry
    video, mask = inputs.videos.get("vace_video"), inputs.masks.get("vace_video_mask")
    if ends := _ends(inputs):
        video, mask = clip_with_frames(ends, geometry)
    references = [
        letterbox_reference(picture, geometry.height, geometry.width)
        for picture in inputs.pictures.get(VACE_REFERENCES, ())
    ]
    repaints = inputs.options.get("vace_masked_region") == REPAINT
    return VACESource(video, mask, references, repaints)


def _make_vace(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    source = vace_source(inputs)
    with encoders.open_vae() as encode:
        context = yield from encode_vace_context(encode, source, inputs.geometry)
        mx.eval(context)
    scale = inputs.options.get("vace_scale", 1.0)
    scales = tuple(scale) if isinstance(scale, Sequence) else (float(scale),)
    return {"vace_add_on": VACEAddOn(context, scales), "frames": LatentFrames(len(source.references))}


VACE = ConditioningUnit("vace", "image", ("vace_add_on", "frames"), _make_vace)
"""VACE's context; without any input it says that all is to be made."""


# Fun


def _make_fun_channels(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    source = FunSource(
        control=inputs.videos.get("control_video"),
        image=_fitted(inputs, "image"),
        end_image=_fitted(inputs, "end_image"),
        video=inputs.videos.get("inpaint_video"),
        mask=inputs.masks.get("inpaint_video_mask"),
    )
    network = inputs.config.transformer
    with encoders.open_vae() as encode:
        channels = network.in_dim - network.out_dim
        concat_latents = yield from encode_slots(encode, source, inputs.geometry, channels)
        mx.eval(concat_latents)
    return {"concat_latents": concat_latents}


FUN_CHANNELS = ConditioningUnit("fun channels", "image", ("concat_latents",), _make_fun_channels)
"""Channels beside the noise; zeros for what is not given."""


def _make_control_channels(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    geometry, read = inputs.geometry, inputs.videos.get("control_video")
    if read is None:
        return {"concat_latents": mx.zeros(geometry.latent_shape)}
    with encoders.open_vae() as encode:
        concat_latents = yield from encode_frames(encode, read_clip(read, geometry), geometry)
        mx.eval(concat_latents)
    return {"concat_latents": concat_latents}


CONTROL_CHANNELS = ConditioningUnit("control channels", "image", ("concat_latents",), _make_control_channels)
"""A control video beside the noise, and nothing else; zeros where there is none."""


def image_tokens_unit(*names: str, is_fitted: bool) -> ConditioningUnit:
    """CLIP features of the first of some images that is given; of none, zeros.

    Args:
        names: of the inputs, the preferred one first.
        is_fitted: whether CLIP sees the image as the video shows it, or as the user gave it.
    """

    def make(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
        yield from ()  # the image encoder reports nothing
        name = next((name for name in names if name in inputs.originals), None)
        if name is None:
            return {"image_tokens": zero_tokens(inputs.config.transformer.image_dim or 0)}
        image = _fitted(inputs, name) if is_fitted else to_unit_range(inputs.originals[name])
        assert image is not None
        return {"image_tokens": encoders.encode_images([image])}

    return ConditioningUnit("image tokens", "image", ("image_tokens",), make)


def zero_tokens(image_dim: int) -> mx.array:
    """What stands for the features of no image, [K, image_dim]; the transformer still projects them."""
    return mx.zeros((ImageEncoderConfig().num_tokens, image_dim))


def _make_reference(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    image = _fitted(inputs, "reference_image")
    if image is None:
        channels, _, *sides = inputs.geometry.latent_shape
        return {"reference_add_on": ReferenceAddOn(mx.zeros((channels, *sides)))}
    with encoders.open_vae() as encode:
        latents = yield from encode_picture(encode, image)
        mx.eval(latents)
    return {"reference_add_on": ReferenceAddOn(latents[:, 0])}


REFERENCE = ConditioningUnit("reference", "image", ("reference_add_on",), _make_reference)
"""Tokens of a reference image; of zeros where there is none, as in training."""


# Camera


def camera_poses(options: Mapping[str, object], num_frames: int) -> np.ndarray | None:
    """Poses [F, 19] of the camera options; None where they name no path.

    Raises:
        MediaError: a trajectory file cannot be used.
    """
    given = {
        name: options[f"camera_control_{name}"]
        for name in ("speed", "origin")
        if options.get(f"camera_control_{name}") is not None
    }
    if direction := options.get("camera_control_direction"):
        return path_in_direction(str(direction), num_frames, **given)  # type: ignore[arg-type]
    trajectory = options.get("camera_trajectory")
    if trajectory is None:
        return None
    if str(trajectory) in PRESETS:
        return path_of_preset(str(trajectory), num_frames, **given)  # type: ignore[arg-type]
    return read_path(Path(str(trajectory)), num_frames)


def _make_camera(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    yield from ()  # rays are made when a transformer takes them
    geometry = inputs.geometry
    poses = camera_poses(inputs.options, geometry.num_frames)
    assert poses is not None
    rays = CameraRays(poses, geometry.height, geometry.width)
    return {"camera_add_on": CameraAddOn(rays, tuple(range(geometry.latent_shape[1])))}


CAMERA = ConditioningUnit(
    "camera",
    "image",
    ("camera_add_on",),
    _make_camera,
    lambda inputs: any(
        inputs.options.get(name) for name in ("camera_control_direction", "camera_trajectory")
    ),
)
"""Rays of a camera path."""


# Speed


def _make_speed(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    yield from ()  # the motion controller reports nothing
    return {"speed_add_on": SpeedAddOn(encoders.encode_motion(inputs.options[MOTION]))}


SPEED = ConditioningUnit(
    "speed", "text", ("speed_add_on",), _make_speed, lambda inputs: inputs.options.get(MOTION) is not None
)
"""How much moves, in models beside which a motion controller lies."""

# Video to video, and one frame


def _leading_pictures(inputs: UnitInputs) -> Iterator[np.ndarray]:
    """Pictures that are sampled before the video, of its size: VACE's references, Animate's character."""
    height, width = inputs.geometry.height, inputs.geometry.width
    for picture in inputs.pictures.get(VACE_REFERENCES, ()):
        yield letterbox_reference(picture, height, width)
    if POSES in inputs.videos:
        yield read_character(inputs)


def _make_start(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    read: ReadFrames = inputs.videos["input_video"]
    geometry = inputs.geometry
    with encoders.open_vae() as encode:
        parts = []
        for page in _leading_pictures(inputs):
            parts.append((yield from encode_picture(encode, page)))
        parts.append((yield from encode_frames(encode, read_clip(read, geometry), geometry)))
        latents = mx.concatenate(parts, axis=1)
        mx.eval(latents)
    return {"start_latents": latents}


START = ConditioningUnit(
    "input video", "image", ("start_latents",), _make_start, lambda inputs: "input_video" in inputs.videos
)
"""Latents of a video that is begun with, behind those of pictures that are sampled before it."""

COMMON_UNITS = (START,)
"""Units that work for every model, behind its own."""


def read_one_frame(options: Mapping[str, Any], num_pictures: int) -> OneFrame | None:
    """Where a picture and its controls lie in time; None for a video.

    Raises:
        RequestError: indices do not go with each other, or with the control pictures.
    """
    target = options.get("target_index")
    if target is None:
        return None
    one = OneFrame(target, tuple(options["control_index"]))
    one.check_pictures(num_pictures)
    return one


def _make_one_frame(inputs: UnitInputs, encoders: Encoders) -> Work[Fields]:
    pictures = inputs.pictures[CONTROL_IMAGES]
    one = read_one_frame(inputs.options, len(pictures))
    assert one is not None
    geometry, fit = inputs.geometry, inputs.options.get("fit", "cover")
    controls = [
        to_unit_range(fit_frame(picture, geometry.height, geometry.width, fit)) for picture in pictures
    ]
    with encoders.open_vae() as encode:
        concat_latents = yield from encode_one_frame(encode, one, controls)
        mx.eval(concat_latents)
    return {"concat_latents": concat_latents, "frames": LatentFrames(times=one.times, kept=one.target)}


ONE_FRAME = ConditioningUnit(
    "one frame",
    "image",
    ("concat_latents", "frames"),
    _make_one_frame,
    lambda inputs: inputs.options.get("target_index") is not None,
)
"""One picture at a chosen time, in place of a video."""
