"""Images and videos of a run: opened, and the run planned for what they show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from mlx_video.conditioning.control.units import camera_poses
from mlx_video.config import ModelConfig
from mlx_video.events import Notice
from mlx_video.layouts.model_folder import ModelFolder
from mlx_video.media.open_image import OpenedImage, open_image
from mlx_video.media.sources.pick_frames import check_length
from mlx_video.media.sources.source_video import SourceVideo, open_video
from mlx_video.request import (
    FRAME_INPUTS,
    IMAGE_INPUTS,
    INPUTS,
    PICTURE_INPUTS,
    VIDEO_INPUTS,
    GenerateRequest,
)
from mlx_video.runs.continuation import GoingOn, find_part, report_continuing
from mlx_video.runs.inputs import check_footage, check_tail, find_picking
from mlx_video.runs.run import Run
from mlx_video.runs.sampling.measured_file import read_measured
from mlx_video.runs.settings import RunPlan, ShownSize, plan_run
from mlx_video.variants.variant import Variant


def open_inputs(
    request: GenerateRequest, model: ModelFolder, config: ModelConfig, variant: Variant, going_on: GoingOn
) -> Run:
    """The run of a request, with its images and videos open and its settings made for them.

    Raises:
        MediaError: one cannot be read.
        RequestError: a setting does not fit the model, or what is given.
    """
    opened = _open_images(request)
    images = {name: image.pixels for name, image in opened.items()}
    measured = read_measured(model.path) if request.step_cache == "magcache" else ()
    videos = _open_videos(request)
    plan = plan_run(request, config, variant, find_shown(images, videos, variant.inputs.sized_by), measured)
    several = _open_pictures(request)
    seen = (*opened.values(), *(each for found in several.values() for each in found))
    return Run(
        model,
        config,
        variant,
        request,
        replace(plan, notices=tuple(_report(model, seen, plan, going_on))),
        images,
        videos,
        {name: tuple(each.pixels for each in found) for name, found in several.items()},
        earlier=going_on.earlier,
        shared_frames=going_on.shared,
        part=find_part(going_on, plan.geometry, request),
        length=going_on.length,
    )


def _open_images(request: GenerateRequest) -> dict[str, OpenedImage]:
    given = {name: image for name in IMAGE_INPUTS if (image := getattr(request, name)) is not None}
    return {name: open_image(image) for name, image in given.items()}


def _open_videos(request: GenerateRequest) -> dict[str, SourceVideo]:
    given = {name: video for name in VIDEO_INPUTS if (video := getattr(request, name)) is not None}
    return {name: open_video(video) for name, video in given.items()}


def _open_pictures(request: GenerateRequest) -> dict[str, tuple[OpenedImage, ...]]:
    given = {name: several for name in PICTURE_INPUTS if (several := getattr(request, name))}
    return {name: tuple(map(open_image, several)) for name, several in given.items()}


def _report(
    model: ModelFolder, images: Iterable[OpenedImage], plan: RunPlan, going_on: GoingOn
) -> Iterator[Notice]:
    """What to tell the user of the model, the images, the settings and the earlier video."""
    yield from map(Notice, model.notices)
    for image in images:
        yield from image.notices
    yield from plan.notices
    if going_on.earlier:
        yield from report_continuing(going_on.earlier, plan.fps)


def find_shown(
    images: Mapping[str, np.ndarray], videos: Mapping[str, SourceVideo], sized_by: str = ""
) -> ShownSize | None:
    """The size of the first given frame; else of the first given video that is no mask.

    Args:
        images, videos: as in `Run`.
        sized_by: the video that gives the size whatever else is given; "" for none.
    """
    first = next((images[name] for name in FRAME_INPUTS if name in images), None)
    if first is not None and not sized_by:
        return ShownSize(*first.shape[:2])
    for name, video in videos.items():
        if name == sized_by or (not sized_by and INPUTS[name] in ("video", "tail")):
            frame, _ = next(video.read())
            height, width = frame.shape[:2]
            return ShownSize(height, width, name)
    return None


def check_videos(run: Run) -> RunPlan:
    """Read as much of the given videos as the run will; gives its plan with what they decide.

    Raises:
        RequestError, MediaError: a video is too short, or cannot be read.
    """
    plan = run.plan
    for name, video in run.videos.items():
        if INPUTS[name] == "tail":
            plan = check_tail(run.request, plan, name, video)
        else:
            plan = replace(plan, notices=(*plan.notices, *_check_video(run, plan, name, video)))
    return plan


def _check_video(run: Run, plan: RunPlan, name: str, video: SourceVideo) -> tuple[Notice, ...]:
    kind = INPUTS[name]
    if kind == "footage":
        check_footage(run.request, plan, name, video)
        return video.notices
    if kind == "all frames" or (video.is_still and kind == "mask"):
        return ()
    return check_length(video, find_picking(run.request, plan, name, run.part))


def check_camera_path(run: Run) -> None:
    """Read the camera's path that is given to a model which follows one.

    Raises:
        MediaError: a trajectory file cannot be used.
    """
    if "camera_trajectory" in run.variant.inputs.all:
        options = {name: getattr(run.request, name) for name in INPUTS}
        camera_poses(options, run.plan.geometry.num_frames)
