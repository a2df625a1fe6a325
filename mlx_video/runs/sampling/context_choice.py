"""The context windows of a run, as the user asks for them and as the video allows."""

from __future__ import annotations

from collections.abc import Iterator

from mlx_video.errors import RequestError
from mlx_video.events import Notice
from mlx_video.geometry import VideoGeometry, latent_frames, pixel_frames
from mlx_video.request import GenerateRequest
from mlx_video.sampling.context_windows import ContextWindows, most_windows
from mlx_video.sampling.recipe import Recipe


def plan_windows(request: GenerateRequest, geometry: VideoGeometry, stride: int) -> ContextWindows | None:
    """The context windows of a run; None without them, and where one covers the video.

    Args:
        request: what the user asked.
        geometry: of the video.
        stride: pixel frames of a latent frame.

    Raises:
        RequestError: lengths are none of whole latent frames, or windows share all of their frames.
    """
    asked, overlap = request.context_frames, request.context_overlap
    if asked is None:
        return None
    size = latent_frames(asked, stride)
    if pixel_frames(size, stride) != asked:
        below = pixel_frames(size, stride)
        raise RequestError(
            "context_frames",
            f"{asked}: must be {stride}n+1, as the VAE packs frames. Nearest: {below} or {below + stride}.",
        )
    if overlap % stride:
        raise RequestError(
            "context_overlap",
            f"{overlap}: must be a multiple of {stride}, since the VAE packs {stride} frames into one. "
            f"Nearest: {overlap // stride * stride} or {(overlap // stride + 1) * stride}.",
        )
    shared = overlap // stride
    if size >= geometry.latent_shape[1]:
        return None
    if shared >= size:
        raise RequestError(
            "context_overlap",
            f"{overlap}: windows of {asked} frames have {size} latent frames, of which they cannot share "
            f"{shared}. Give at most {(size - 1) * stride}.",
        )
    _check_levels(request)
    return ContextWindows(
        size, shared, request.context_schedule, request.context_weights, request.context_stride
    )


def _check_levels(request: GenerateRequest) -> None:
    if request.context_stride > 1 and request.context_schedule == "static":
        raise RequestError(
            "context_stride",
            f"{request.context_stride}: static windows have every frame. Choose --context-schedule uniform "
            "or looped, or leave the option out.",
        )


def check_caches(windows: ContextWindows, recipe: Recipe) -> None:
    """Refuse a step cache of windows that no later step has again.

    Raises:
        RequestError: it keeps what blocks added to the tokens of a window.
    """
    if windows.moves and recipe.step_cache and recipe.step_cache.new_cache:
        raise RequestError(
            "step_cache",
            f"--context-schedule {windows.schedule} has other windows in each step: nothing is kept of them. "
            "Choose --context-schedule static, or --step-cache easycache.",
        )


def report_windows(
    request: GenerateRequest, windows: ContextWindows | None, geometry: VideoGeometry, recipe: Recipe
) -> Iterator[Notice]:
    """Say how many windows each step has."""
    if request.context_frames is None:
        return
    if windows is None:
        yield Notice(
            f"One context window of {request.context_frames} frames covers the video of "
            f"{geometry.num_frames}: it is made as a whole."
        )
        return
    most = most_windows(windows, geometry.latent_shape[1], recipe.schedule.steps)
    yield Notice(
        f"Context windows of {request.context_frames} frames: {'up to ' if windows.moves else ''}{most} "
        f"in each step, {windows.schedule}."
    )
