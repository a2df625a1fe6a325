"""Whether a video of a list was made by an earlier run of it, told by the settings in its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlx_video.errors import MLXVideoError
from mlx_video.formats.safetensors_header import read_header
from mlx_video.latents.run_state import is_state, load_state
from mlx_video.media.image import frame_name, numbered_frames
from mlx_video.media.video import read_video_metadata
from mlx_video.request import GenerateRequest
from mlx_video.runs.continuation import count_all_frames
from mlx_video.runs.generate import written_paths
from mlx_video.runs.run import Run


def is_finished(run: Run) -> bool:
    """Whether every result of a run lies under its name, made with the run's settings."""
    request, settings = run.request, run.settings()
    paths = result_paths(request)
    if not paths or any(read_settings(path) != settings for path in paths):
        return False
    folder = request.frames_path
    num_frames = count_all_frames(run)
    return folder is None or [index for index, _ in numbered_frames(folder)] == [*range(num_frames)]


def result_paths(request: GenerateRequest) -> list[Path]:
    """Everything that a request asks to be written: latents, a folder of frames, the video."""
    return [*filter(None, [request.latents_path]), *written_paths(request)]


def read_settings(path: Path) -> Mapping[str, str]:
    """The settings with which a result, or the state of a run, was made; none where it is something else.

    Args:
        path: a video, a picture, latents, a state, or a folder of frames.
    """
    try:
        if path.is_dir():
            return read_video_metadata(path / frame_name(0))
        if path.suffix != ".safetensors":
            return read_video_metadata(path) if path.is_file() else {}
        texts = read_header(path).metadata if path.is_file() else {}
        return load_state(path).settings if is_state(texts) else texts
    except MLXVideoError:
        return {}
